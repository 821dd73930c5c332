// Planning and committing allocate nothing once their buffers have grown.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <numeric>

#include "fathom/sched/scheduler.h"

namespace {

std::atomic<int64_t> allocations = 0;

}  // namespace

[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  void* memory = std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace fathom::sched {
namespace {

SchedulerOptions overlapped_options() {
  SchedulerOptions options;
  options.pages = 120;
  options.page_size = 4;
  options.host_pages = 60;
  options.max_running = 8;
  options.context_length = 100;
  options.step_tokens = options.mixed_step_tokens = 32;
  options.chunk_floor = 8;
  options.depth = 1;
  options.growth_start = options.growth_min = 0.02;  // pages run short: preemptions come along
  return options;
}

class Round {
 public:
  // Twelve requests, to their ends; allocations outside add() and of the results.
  int64_t run() {
    for (int i = 0; i < 12; ++i) {
      auto request = std::make_shared<plan::Request>();
      request->prompt.resize(static_cast<size_t>(20 + i));
      std::iota(request->prompt.begin(), request->prompt.end(), 50 * i);
      request->sampling.max_new_tokens = 60;
      request->sampling.repetition_penalty = 1.5f;
      EXPECT_FALSE(scheduler_.add(request, ++last_id_).refused());
    }
    int64_t count = 0;
    while (!scheduler_.quiet()) {
      const int64_t before = allocations;
      plan::Batch& batch = batches_[next_ % 2];
      const bool planned = scheduler_.plan(batch);
      scheduler_.take_copies(copies_);
      for (const plan::CopyJob& job : copies_.jobs) {
        scheduler_.copied(job.sequence, job.incarnation);
      }
      count += allocations - before;
      if (planned) fill(results_[next_++ % 2], batch);
      if (planned && scheduler_.steps_in_flight() < 2) continue;
      if (scheduler_.steps_in_flight() > 0) count += commit(results_[done_++ % 2]);
    }
    return count;
  }
  const Scheduler& scheduler() const { return scheduler_; }

 private:
  void fill(plan::StepResult& result, const plan::Batch& batch) {
    result = {.id = batch.id};
    for (const plan::Row& row : batch.rows) {
      result.rows.push_back({row.start, row.emits, static_cast<int32_t>(result.tokens.size())});
      if (row.emits) result.tokens.push_back(7);
    }
  }

  int64_t commit(plan::StepResult& result) {
    const int64_t before = allocations;
    scheduler_.commit(result);
    scheduler_.take_outputs(outputs_);
    return allocations - before;
  }

  Scheduler scheduler_{overlapped_options()};
  plan::Batch batches_[2];
  plan::StepResult results_[2];
  plan::CopyJobs copies_;
  plan::Outputs outputs_;
  int64_t last_id_ = 0, next_ = 0, done_ = 0;
};

TEST(SchedulerAllocation, NoneAfterWarmUp) {
  Round round;
  EXPECT_GT(round.run(), 0);  // the counter counts
  for (int i = 0; i < 3; ++i) round.run();
  const SchedulerStats before = round.scheduler().stats();
  EXPECT_EQ(round.run(), 0);
  const SchedulerStats after = round.scheduler().stats();
  EXPECT_GT(after.preemptions, before.preemptions);
  EXPECT_GT(after.swaps, before.swaps);
}

}  // namespace
}  // namespace fathom::sched
