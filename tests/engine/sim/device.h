// A simulated device under the real scheduler: device memory holds, for each KV position, which
// token prefix it belongs to, and rows read and write it when a step executes, not when it is
// planned. So a use after free, a wrong share, a partial page in the tree or a stale device
// position shows as wrong content (contracts.md I3, I4, I8), not merely as wrong book-keeping.
//
// Steps execute in order, whenever the test says; copies run whenever it says. A page that becomes
// free is poisoned at once. Every violation is a CheckError.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "fathom/plan/batch.h"
#include "fathom/plan/copy_job.h"
#include "fathom/plan/step_result.h"
#include "fathom/sched/scheduler.h"

namespace fathom::sim {

using plan::PageId;
using plan::Token;
using Random = std::mt19937_64;
using Prefix = uint64_t;  // a token list, hashed; 0 is poison

constexpr int kVocabulary = 24;

// The model: what a prefix becomes with one more token, and what follows a prefix.
Prefix extend(Prefix prefix, Token token);
Token next_token(const plan::Request& request, int choice, int output_index, Prefix prefix);
// The output index whose logits are not finite; -1: none.
int sick_at(const plan::Request& request);

// The oracle: the first `count` tokens of prompt and output, no stop considered.
std::vector<Token> naive_tokens(const plan::Request& request, int choice, int count);

class SimDevice {
 public:
  // Device memory of `scheduler`'s pool; the device looks at pool and tree only to check itself.
  SimDevice(const sched::Scheduler& scheduler, uint64_t seed);

  // What sequence `id` is allowed to read: all its tokens, beyond any limit.
  void know(int64_t id, std::vector<Token> tokens);

  void launch(const plan::Batch& batch);
  bool can_execute() const { return executed_ < steps_.size(); }
  void execute();
  bool has_result() const { return executed_ > 0; }
  plan::StepResult take_result();  // of the oldest step, which has executed

  void queue(const plan::CopyJobs& jobs);
  bool has_copy() const { return !copies_.empty(); }
  // Runs any copy and tells which sequence's.
  plan::CopyJob run_copy();

  // F3: all that was in flight is gone, and what the device held. The host's pages stay.
  void lose();

  // After each turn of the scheduler: poisons what is free; no step in flight and no copy may hold
  // it (I2).
  void look_at_pool();

 private:
  struct Slot {
    int64_t sequence = 0;
    int32_t choice = 0, prompt = 0;
    Token token = 0;
    int32_t position = -1;
    std::vector<float> scores;  // of the prompt's tokens scored so far: their positions
    std::shared_ptr<const plan::Request> request;
  };
  struct Step {
    plan::Batch batch;
    plan::StepResult result;
  };
  struct Copy {
    plan::CopyJob job;
    std::vector<PageId> device, host;
  };

  Prefix& content(PageId page, int offset);
  Prefix& at(std::span<const PageId> table, int position);
  void check_history(int64_t sequence, std::span<const PageId> table, int length);
  void write(std::span<const PageId> table, int position, Prefix prefix);
  void execute_row(Step& step, size_t index);
  void run_decode(Step& step, const plan::Row& row, Slot& slot, std::span<const PageId> table);
  void run_chunk(
      Step& step,
      const plan::Row& row,
      Slot& slot,
      std::span<const PageId> table,
      std::span<const Token> input
  );

  const sched::Scheduler& scheduler_;
  int page_size_;
  Random random_;
  std::vector<Prefix> memory_, host_memory_;
  std::vector<Slot> slots_;
  std::deque<Step> steps_;  // not yet committed, oldest first
  size_t executed_ = 0;     // of them
  std::vector<Copy> copies_;
  std::map<int64_t, std::vector<Prefix>> expected_;
};

}  // namespace fathom::sim
