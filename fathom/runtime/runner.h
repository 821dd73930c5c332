// Runner: a Batch in, accepted tokens out. The doing tower's whole face to the engine.
//
// Thread rule: run() is called by one worker thread, in StepId order (contracts B3). It blocks
// until the step is complete. `result` is overwritten; its vectors keep their capacity, so that a
// warm step allocates nothing.
#pragma once

#include "fathom/plan/batch.h"
#include "fathom/plan/step_result.h"

namespace fathom::runtime {

// The largest step that will be asked for.
struct StepCapacity {
  int tokens = 0;  // T
  int rows = 0;    // B
  int slots = 0;   // max_running
  int pages = 0;   // page table entries of all rows together
};

class Runner {
 public:
  virtual ~Runner() = default;
  virtual plan::Lookahead lookahead() const = 0;
  virtual void run(const plan::Batch& batch, plan::StepResult& result) = 0;
};

}  // namespace fathom::runtime
