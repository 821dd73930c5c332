#include "fathom/runtime/decode_graphs.h"

#include <algorithm>

#include "fathom/base/check.h"
#include "fathom/base/log.h"

namespace fathom::runtime {

DecodeGraphs::DecodeGraphs(DeviceQueue& queue, int most_rows, bool on)
    : queue_(queue), most_rows_(most_rows), on_(on && queue.has_graphs()) {}

// Powers of two while padding costs little, then steps of 16.
int DecodeGraphs::rows_for(int rows) const {
  constexpr int kStep = 16;
  if (!on_ || rows == 0) return 0;
  int bucket = 1;
  while (bucket < rows && bucket < kStep) bucket *= 2;
  if (bucket < rows) bucket = (rows + kStep - 1) / kStep * kStep;
  return std::min(bucket, most_rows_);
}

Tensor DecodeGraphs::run(Key key, Workspace& workspace, const std::function<Tensor()>& work) {
  const auto found = captured_.find(key);
  if (found == captured_.end()) return first_run(key, workspace, work);
  const Captured& captured = found->second;
  // What the graph uses is taken, as if its kernels had asked for it.
  workspace.alloc(DType::u8, {captured.bytes});
  queue_.replay(*captured.graph);
  ++replays_;
  return captured.logits;
}

// The capture finds the addresses of the run, whose logits stay.
Tensor DecodeGraphs::first_run(Key key, Workspace& workspace, const std::function<Tensor()>& work) {
  Captured captured;
  const int64_t used = workspace.used();
  {
    const Workspace::Mark mark(workspace);
    captured.logits = work();
    captured.bytes = workspace.used() - used;
  }
  try {
    const Workspace::Mark mark(workspace);
    captured.graph = queue_.capture(work);
    nodes_ = captured.graph->nodes();
  } catch (const CheckError& e) {
    log_info("cuda_graph is off from now on: {}", e.what());
    on_ = false;
  }
  workspace.alloc(DType::u8, {captured.bytes});
  const Tensor logits = captured.logits;
  if (on_) captured_[key] = std::move(captured);
  return logits;
}

}  // namespace fathom::runtime
