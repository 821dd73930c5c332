// Loss, drain, failing rows and idle replicas at every step of a short run (contracts.md section
// 13, 7 and 8).
#include <gtest/gtest.h>

#include "fathom/base/check.h"
#include "fathom/testing/scale.h"
#include "tests/engine/sim/options.h"
#include "tests/engine/sim/world.h"

namespace fathom::sim {
namespace {

sched::SchedulerOptions tight_options() {
  sched::SchedulerOptions options = ample_options();
  options.depth = 1;
  options.pages = 41;
  options.host_pages = 20;
  options.growth_start = options.growth_min = 0.02;
  return options;
}

constexpr int kTurns = 250;

// The same short run each time, with `event` at one turn of it.
template <class Event>
void at_every_turn(Event event) {
  const int stride = kTurns / testing::scaled(kTurns);
  for (int when = 0; when < kTurns; when += stride) {
    SCOPED_TRACE("turn " + std::to_string(when));
    World world(tight_options(), {.preempt = 10}, Shape{}, 17);
    ASSERT_NO_THROW({
      for (int turn = 0; turn < kTurns; ++turn) {
        if (turn == when) event(world);
        world.turn();
      }
      world.finish();
      world.check_clients();
    });
  }
}

TEST(SchedFailure, LossAtEveryTurnLosesNoToken) {
  at_every_turn([](World& world) { world.lose_rank(), world.after(); });
}

TEST(SchedFailure, DrainAtEveryTurnEndsQuiet) {
  at_every_turn([](World& world) {
    world.scheduler.drain();
    const auto request = world.random_request();
    EXPECT_EQ(world.scheduler.add(request, 1'000'000).kind, plan::RefusalKind::draining);
  });
}

TEST(SchedFailure, DrainDeadlineAtEveryTurnEndsEverybody) {
  at_every_turn([](World& world) {
    world.scheduler.drain();
    for (Client& client : world.clients) client.cancelled = true;
    world.scheduler.cancel_all(plan::FinishReason::abort, "draining");
    EXPECT_FALSE(world.scheduler.has_work());
    world.after();
  });
}

TEST(SchedFailure, ResultsOfAnOlderIncarnationAreDiscarded) {
  World world(ample_options(), {}, Shape{.stops = false}, 1);
  ASSERT_TRUE(world.add(world.random_request()));
  ASSERT_TRUE(world.plan_step());
  world.device.execute();
  plan::StepResult stale = world.device.take_result();
  world.lose_rank();
  world.scheduler.commit(stale);
  EXPECT_EQ(world.scheduler.stats().ignored_events, 1);
  world.finish();
  world.check_clients();
}

TEST(SchedFailure, StepsOutOfOrderAreAnError) {
  sched::SchedulerOptions options = ample_options();
  options.depth = 1;
  World world(options, {}, Shape{}, 1);
  for (int i = 0; i < 4; ++i) world.add(world.random_request());
  ASSERT_TRUE(world.plan_step());
  ASSERT_TRUE(world.plan_step());
  world.device.execute();
  world.device.execute();
  world.device.take_result();
  plan::StepResult second = world.device.take_result();
  EXPECT_THROW(world.scheduler.commit(second), CheckError);
}

// dp attention (B6): a replica without work joins every step of the other; both count the same
// steps.
TEST(SchedFailure, IdleReplicaKeepsStep) {
  sched::SchedulerOptions options = ample_options();
  options.depth = 1;
  World busy(options, {}, Shape{.stops = false}, 5), idle(options, {}, Shape{}, 6);
  World* replicas[] = {&busy, &idle};
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(busy.add(busy.random_request()));
  ASSERT_TRUE(idle.add(idle.random_request()));  // a little, then nothing
  while (busy.scheduler.has_work() || idle.scheduler.has_work()) {
    bool planned[2];
    for (int r = 0; r < 2; ++r) {
      World& world = *replicas[r];
      planned[r] = world.scheduler.plan(world.batch, true);
      if (planned[r]) world.device.launch(world.batch);
      world.after();
    }
    ASSERT_EQ(planned[0], planned[1]);
    ASSERT_TRUE(!planned[0] || busy.batch.id == idle.batch.id);
    for (World* world : replicas) {
      if (world->scheduler.steps_in_flight() < 2 && planned[0]) continue;
      if (world->device.can_execute()) world->device.execute();
      world->commit_step();
      world->after();
    }
  }
  for (World* world : replicas) {
    world->finish();
    world->check_clients();
  }
  EXPECT_EQ(busy.scheduler.stats().steps, idle.scheduler.stats().steps);
}

}  // namespace
}  // namespace fathom::sim
