// Decides what each step does: which sequences run, with which pages, and what their results mean.
// Normative: docs/contracts.md; comments name its rules.
//
// No clock, no device, no thread of its own. Every method is called by one thread, the scheduler
// thread, which turns one loop:
//
//   serial      take messages; if (plan(batch)) commit(run(batch)); hand over outputs
//   overlapped  take messages; while (plan(batch)) launch(batch); commit(next completed);
//               hand over copies and outputs
//
// Messages from other threads reach it through queues of the engine: add, cancel, copied, drain,
// flush, restart; each is handled whole, between plan and commit. From other threads only the free
// functions of options.h may be called.
//
// After plan() (even when it returned false) call take_copies(); after any method, take_outputs().
// plan, commit, cancel and copied do not allocate once their buffers have grown; add does when no
// spare sequence is large enough. A CheckError out of any method is a violated invariant: the
// incarnation is over (F2), call restart.
//
// Files: scheduler.cc life of a sequence; admission.cc entering (S1, A2, A3, V5); plan.cc (section
// 8); commit.cc (B4); preemption.cc (section 9, copies); check.cc (section 11).
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "fathom/cache/page_pool.h"
#include "fathom/cache/radix_tree.h"
#include "fathom/plan/batch.h"
#include "fathom/plan/copy_job.h"
#include "fathom/plan/output.h"
#include "fathom/plan/refusal.h"
#include "fathom/plan/step_result.h"
#include "fathom/sched/options.h"
#include "fathom/sched/policy.h"
#include "fathom/sched/sequence.h"

namespace fathom::sched {

// Since start, unless it says now.
struct SchedulerStats {
  int running = 0, waiting = 0, swapped = 0;  // now; waiting counts what has never run as well
  int pages_total = 0, pages_free = 0, pages_tree = 0, pages_evictable = 0, pages_limbo = 0;  // now
  int host_pages_used = 0;                                                                    // now
  int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
  int64_t requests = 0, finished = 0, aborted = 0, failed = 0;  // sequences, but for requests
  int64_t preemptions = 0, swaps = 0, wasted_rows = 0, ignored_events = 0;
  int64_t steps = 0, mixed_steps = 0, chunk_rows = 0, decode_rows = 0, short_rows = 0;
  // Decode rows that verified drafts and were not cut by their sequence's end, and their tokens;
  // drafted tokens on the way of what was emitted, and those of them that were accepted.
  int64_t verified_rows = 0, verified_tokens = 0, drafts_judged = 0, drafts_accepted = 0;
  int64_t draft_levels = 0;  // of all decode rows that verified drafts
};

class Scheduler {
 public:
  // `options` have passed validate().
  explicit Scheduler(SchedulerOptions options);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // S1. The n sequences of an accepted request have the ids first_id .. first_id + n - 1; the
  // engine gives ids, each once.
  plan::Refusal add(const std::shared_ptr<const plan::Request>& request, int64_t first_id);

  // S3: ends a live sequence; an unknown or ended one is ignored and counted. `keep`: output tokens
  // that the client saw, where the text worker cut the output; -1: all. `error` is told with reason
  // abort or failed; pages of a failed sequence never enter the tree (F1).
  void cancel(int64_t id, plan::FinishReason reason, int keep = -1, std::string_view error = {});
  void cancel_all(plan::FinishReason reason, std::string_view error);

  // Section 8. Fills `batch` (cleared first; recycle it) and returns true when there is a step to
  // run. With dp attention, `group_has_work` says that a replica of the group has: then there is a
  // step, perhaps without rows (B6).
  bool plan(plan::Batch& batch, bool group_has_work = false);

  // B4. Results come in the order of their steps; those of an older incarnation are discarded (F3).
  // Log probabilities and embeddings are moved out of `result`.
  void commit(plan::StepResult& result);

  // P6: `to` is cleared and receives the jobs queued since the last call. Each must be run and
  // reported, in any order relative to steps, even when its sequence has ended meanwhile.
  void take_copies(plan::CopyJobs& to);
  void copied(int64_t id, uint64_t incarnation);

  // `to` is cleared and receives what was emitted since the last call.
  void take_outputs(plan::Outputs& to);

  // V2 by hand: preempts a running sequence as if an older one lacked pages. False when it is not
  // running or is marked already.
  bool preempt(int64_t id);

  void drain() { draining_ = true; }   // F4: add refuses from now on
  bool flush();                        // T5
  void restart(uint64_t incarnation);  // F3

  // The engine may learn it from the steps it has seen.
  void set_step_cost(const StepCost& cost) { options_.step_cost = cost; }

  bool has_work() const { return !live_.empty(); }
  bool quiet() const;  // I9: nothing is live, in flight or being copied
  int steps_in_flight() const { return static_cast<int>(last_planned_ - last_committed_); }
  SchedulerStats stats() const;
  const SchedulerOptions& options() const { return options_; }
  const cache::PagePool& pool() const { return pool_; }
  const cache::RadixTree& tree() const { return tree_; }

  // I1, I7, I9, I12. O(pages).
  void check() const;

 private:
  // What commit must know of a row.
  struct FlightRow {
    Sequence* sequence;
    int32_t start, count;
    bool chunk, emits;
  };
  struct Step {
    StepId id = 0;
    std::vector<FlightRow> rows;
  };
  // One pass over the live sequences (A1).
  struct Pass {
    plan::Batch& batch;
    bool chunks = true;   // chunks may be planned
    bool decodes = true;  // decode rows may be planned
    bool open = true;     // sequences may enter (A3)
    size_t entered = 0;   // of the policy's order
    int left = 0;         // prefill tokens that may still be planned
    int floor = 0;        // of `left`, those that may be planned whatever they cost
    int64_t cost = 0;     // nanoseconds that chunks may still add; see StepCost
  };
  struct Ending {
    plan::FinishReason reason;
    int keep = -1;  // output tokens; -1: all
    std::string_view error = {};
    Token stop_token = -1;
    int embedding = -1;  // in outputs_
  };

  // scheduler.cc
  Sequence* find(int64_t id) const;
  Sequence& make_sequence(std::shared_ptr<const plan::Request> request, int64_t id, int choice);
  void end(Sequence& s, const Ending& ending);
  plan::OutputRecord& record_of(const Sequence& s);
  void drop_pages(Sequence& s, int insert_tokens);
  void drop_host_copy(Sequence& s);
  void void_device_state(Sequence& s);
  void release_slot(Sequence& s);
  void release_if_done(Sequence& s);
  void set_siblings_ready(const Sequence& first);
  int pages_for(int64_t positions) const;

  // admission.cc
  void order_outside();
  void enter(Pass& pass, Sequence& s);
  bool admit(Pass& pass, Sequence& s);
  bool resume(Sequence& s);
  bool take_pages(Sequence& s, int positions, int own_growth);
  void undo_match(Sequence& s);
  int64_t growth_pages(const Sequence& s, int at_least) const;
  bool busy() const;
  void count_passed(const Sequence& entered);

  // plan.cc
  void run_pass(plan::Batch& batch, bool chunks, bool decodes);
  void set_budget(Pass& pass) const;
  void plan_decode(Pass& pass, Sequence& s);
  bool plan_chunk(Pass& pass, Sequence& s);
  int chunk_size(const Pass& pass, const Sequence& s, int planned) const;
  int affordable(const Pass& pass, int planned) const;
  bool cover(Sequence& s, int64_t positions);
  void add_row(plan::Batch& batch, Sequence& s, const plan::Row& row);
  void add_reset(plan::Batch& batch, Sequence& s);
  void seal(plan::Batch& batch);

  // commit.cc
  void commit_row(const FlightRow& row, plan::StepResult& result, size_t index);
  void commit_chunk(Sequence& s, const FlightRow& row, plan::StepResult& result, size_t index);
  void append(Sequence& s, plan::StepResult& result, const plan::RowResult& row);
  void count_drafts(int64_t emitted, const plan::RowResult& done);
  bool stops(const Sequence& s, Token token, int output_index) const;

  // preemption.cc
  bool make_room(const Sequence& needs);
  bool pages_pending() const;
  bool give_back(Sequence& s);
  int yield(const Sequence& s) const;
  void mark(Sequence& s);
  void preempt_now(Sequence& s);
  bool swaps(const Sequence& s) const;
  void queue_copy(Sequence& s, bool out, int from);

  void check_sequence(const Sequence& s) const;  // check.cc

  SchedulerOptions options_;
  cache::PagePool pool_;
  cache::PagePool host_;
  cache::RadixTree tree_;
  std::unique_ptr<Policy> policy_;

  std::vector<std::unique_ptr<Sequence>> spare_;
  std::vector<std::unique_ptr<Sequence>> live_;   // oldest first
  std::vector<std::unique_ptr<Sequence>> ended_;  // with a row or a copy still out
  std::vector<Sequence*> outside_;                // this plan's order of entry
  std::vector<int32_t> free_slots_;
  std::vector<Step> steps_;  // ring by StepId
  StepId last_planned_ = 0, last_committed_ = 0;
  uint64_t incarnation_ = 0;
  int64_t next_arrival_ = 0;
  int decodes_in_flight_ = 0;
  int decode_steps_owed_ = 0;    // before the next prefill-only step (mixed_step off)
  int hold_ = 0;                 // commits until new sequences may enter again (V6)
  double growth_ = 0;            // r of A2
  bool short_of_pages_ = false;  // since the last commit
  bool draining_ = false;
  plan::Outputs outputs_;
  plan::CopyJobs copies_;
  SchedulerStats stats_;
};

}  // namespace fathom::sched
