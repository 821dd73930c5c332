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

Tensor DecodeGraphs::run(int rows, Workspace& workspace, const std::function<Tensor()>& work) {
  if (!captured_.contains(rows) && !capture(rows, workspace, work)) return work();
  const Captured& captured = captured_.at(rows);
  // What the graph uses is taken, as if its kernels had asked for it.
  if (captured.bytes > 0) workspace.alloc(DType::u8, {captured.bytes});
  queue_.replay(*captured.graph);
  ++replays_;
  return captured.logits;
}

bool DecodeGraphs::capture(int rows, Workspace& workspace, const std::function<Tensor()>& work) {
  const Workspace::Mark mark(workspace);
  {
    const Workspace::Mark warm(workspace);
    work();
  }
  try {
    Captured captured;
    const int64_t used = workspace.used();
    captured.graph = queue_.capture([&] { captured.logits = work(); });
    captured.bytes = workspace.used() - used;
    nodes_ = captured.graph->nodes();
    captured_[rows] = std::move(captured);
  } catch (const CheckError& e) {
    log_info("cuda_graph is off from now on: {}", e.what());
    on_ = false;
  }
  return on_;
}

}  // namespace fathom::runtime
