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

Tensor DecodeGraphs::run(int rows, const std::function<Tensor()>& work) {
  const auto found = captured_.find(rows);
  if (found != captured_.end()) {
    queue_.replay(*found->second.graph);
    ++replays_;
    return found->second.logits;
  }
  Tensor logits = work();
  if (!on_) return logits;
  try {
    Captured captured;
    captured.graph = queue_.capture([&] { captured.logits = work(); });
    nodes_ = captured.graph->nodes();
    logits = captured.logits;
    captured_[rows] = std::move(captured);
  } catch (const CheckError& e) {
    log_info("cuda_graph is off from now on: {}", e.what());
    on_ = false;
  }
  return logits;
}

}  // namespace fathom::runtime
