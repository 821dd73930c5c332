// Runner: a Batch in, accepted tokens out. The doing tower's whole face to the engine.
//
// Thread rule: all methods are called by one worker thread, steps in StepId order (contracts B3).
// run() blocks until the step is complete. A runner with ahead() > 0 also takes a step in two
// halves, so that the device finds the next one when it has done this one. `result` is overwritten;
// its vectors keep their capacity, so that a warm step allocates nothing.
#pragma once

#include <cstdint>
#include <limits>

#include "fathom/plan/batch.h"
#include "fathom/plan/step_result.h"

namespace fathom::runtime {

// The largest step that will be asked for.
struct StepCapacity {
  int tokens = 0;      // T
  int rows = 0;        // B
  int slots = 0;       // max_running
  int pages = 0;       // page table entries of all rows together
  int positions = 0;   // of the longest sequence
  bool trees = false;  // rows may verify drafts that are no chain
  // The last position that the model can turn; tokens behind it are never kept, whatever they are.
  int32_t last_position = std::numeric_limits<int32_t>::max();
};

struct RunnerCounters {
  int64_t graph_replays = 0;
  int64_t graph_nodes = 0;  // of the graph captured last
};

class Runner {
 public:
  virtual ~Runner() = default;
  virtual plan::Lookahead lookahead() const = 0;
  virtual void run(const plan::Batch& batch, plan::StepResult& result) = 0;

  // Steps that may be started while the oldest one started is not finished.
  virtual int ahead() const { return 0; }
  // `batch` stays until finish().
  virtual void start(const plan::Batch& batch) { started_ = &batch; }
  // Whether finish() would not wait.
  virtual bool ready() const { return true; }
  // The oldest step started.
  virtual void finish(plan::StepResult& result) { run(*started_, result); }

  // From any thread.
  virtual RunnerCounters counters() const { return {}; }

 private:
  const plan::Batch* started_ = nullptr;
};

}  // namespace fathom::runtime
