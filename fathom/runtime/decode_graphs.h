// DecodeGraphs: a decode step's model and the draw behind it, captured once for each number of rows
// and kind of draw and replayed: one launch instead of hundreds (feature cuda_graph). Steps of
// fewer rows are padded to the next captured number; everything that a graph reads lies at fixed
// addresses.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>

#include "fathom/core/device_queue.h"
#include "fathom/core/tensor.h"
#include "fathom/core/workspace.h"
#include "fathom/runtime/runner.h"
#include "fathom/runtime/sampler.h"

namespace fathom::runtime {

class DecodeGraphs {
 public:
  // `most_rows`: of the largest step. Off: rows_for() is always 0.
  DecodeGraphs(DeviceQueue& queue, int most_rows, bool on);

  // The rows of the graph that a step of so many replays; 0: none.
  int rows_for(int rows) const;

  // What a graph differs by.
  struct Key {
    int rows = 0;
    DrawKind draw = DrawKind::special;
    auto operator<=>(const Key&) const = default;
  };
  // `work` gives a step of exactly such to the queue and returns the logits, which lie in
  // `workspace`, as all its intermediates do, until the caller's mark ends. The first step runs as
  // it is, so that no kernel is loaded within a capture, and is captured behind that; from then on
  // the graph is replayed. A step that cannot be captured, since one of its ops has no row on the
  // device, turns the graphs off.
  Tensor run(Key key, Workspace& workspace, const std::function<Tensor()>& work);

  RunnerCounters counters() const { return {.graph_replays = replays_, .graph_nodes = nodes_}; }

 private:
  struct Captured {
    std::unique_ptr<DeviceGraph> graph;
    Tensor logits;
    int64_t bytes = 0;  // of the workspace
  };
  Tensor first_run(Key key, Workspace& workspace, const std::function<Tensor()>& work);

  DeviceQueue& queue_;
  int most_rows_;
  bool on_;
  std::map<Key, Captured> captured_;
  std::atomic<int64_t> replays_{0}, nodes_{0};  // read by other threads too
};

}  // namespace fathom::runtime
