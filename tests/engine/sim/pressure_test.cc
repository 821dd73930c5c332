// Far more demand than pages, then none (contracts.md section 13, 6).
#include <gtest/gtest.h>

#include "tests/engine/sim/options.h"
#include "tests/engine/sim/world.h"

namespace fathom::sim {
namespace {

struct Rows {
  int64_t steps = 0, decodes = 0;
};

// Serial steps of one fake second each, `count` of them at most.
Rows run_steps(World& world, int count) {
  const sched::SchedulerStats before = world.scheduler.stats();
  for (int i = 0; i < count; ++i) {
    const bool planned = world.plan_step();
    world.after();
    if (planned) {
      world.device.execute();
      world.commit_step();
    }
    while (world.device.has_copy()) {
      const plan::CopyJob job = world.device.run_copy();
      world.scheduler.copied(job.sequence, job.incarnation);
    }
    world.after();
  }
  const sched::SchedulerStats after = world.scheduler.stats();
  return {after.steps - before.steps, after.decode_rows - before.decode_rows};
}

std::shared_ptr<plan::Request> request_of(Random& random, int output) {
  auto request = std::make_shared<plan::Request>();
  for (int i = 0; i < 12; ++i)
    request->prompt.push_back(static_cast<Token>(random() % kVocabulary));
  request->sampling.max_new_tokens = output;
  request->sampling.seed = 1;
  return request;
}

// Rows per step under a load that fits, after a time of three times the pool's demand.
void recovers(int host_pages) {
  sched::SchedulerOptions options = ample_options();
  options.pages = 101;  // 400 tokens: four sequences of 90
  options.max_running = 12;
  options.host_pages = host_pages;
  options.growth_start = options.growth_min = 0.02;  // admits too many on purpose
  World world(options, {}, Shape{}, 3);
  Random random(3);
  const auto feed = [&](int live) {
    const sched::SchedulerStats stats = world.scheduler.stats();
    for (int n = stats.running + stats.waiting + stats.swapped; n < live; ++n) {
      ASSERT_TRUE(world.add(request_of(random, 78)));
    }
  };
  for (int i = 0; i < 300; ++i) feed(4), run_steps(world, 1);
  Rows calm;
  for (int i = 0; i < 300; ++i) {
    feed(4);
    const Rows rows = run_steps(world, 1);
    calm.steps += rows.steps, calm.decodes += rows.decodes;
  }
  const sched::SchedulerStats before = world.scheduler.stats();
  for (int i = 0; i < 600; ++i) feed(12), run_steps(world, 1);
  const sched::SchedulerStats pressed = world.scheduler.stats();
  const int64_t preemptions = pressed.preemptions - before.preemptions;
  const int64_t tokens = pressed.generated_tokens - before.generated_tokens;
  EXPECT_GT(preemptions, 0);
  EXPECT_LT(preemptions * 1000, tokens * 40) << preemptions << " for " << tokens << " tokens";
  EXPECT_EQ(pressed.swaps > 0, host_pages > 0);
  // The pressure ends: what waits runs on with four at a time; then as before.
  for (int i = 0; i < 400; ++i) feed(4), run_steps(world, 1);
  Rows again;
  for (int i = 0; i < 300; ++i) {
    feed(4);
    const Rows rows = run_steps(world, 1);
    again.steps += rows.steps, again.decodes += rows.decodes;
  }
  EXPECT_GE(again.decodes * calm.steps * 10, calm.decodes * again.steps * 9)
      << again.decodes << " / " << again.steps << " after " << calm.decodes << " / " << calm.steps;
  world.finish();
  world.check_clients();
}

TEST(SchedPressure, RecoversFromRecompute) {
  recovers(0);
}
TEST(SchedPressure, RecoversFromSwap) {
  recovers(400);
}

// With the reserve of A2 at its default, demand alone hardly preempts anybody.
TEST(SchedPressure, ReservationKeepsPreemptionRare) {
  sched::SchedulerOptions options = ample_options();
  options.pages = 101;
  World world(options, {}, Shape{}, 4);
  Random random(4);
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(world.add(request_of(random, 78)));
  run_steps(world, 3000);
  const sched::SchedulerStats stats = world.scheduler.stats();
  EXPECT_TRUE(world.scheduler.quiet());
  EXPECT_LT(stats.preemptions * 1000, stats.generated_tokens * 5) << stats.preemptions;
}

}  // namespace
}  // namespace fathom::sim
