// Random clients against the naive output (contracts.md section 13, 1 and 2).
#include <gtest/gtest.h>

#include "fathom/testing/scale.h"
#include "tests/engine/sim/options.h"
#include "tests/engine/sim/world.h"

namespace fathom::sim {
namespace {

TEST(SchedOracle, EveryClientSeesAPrefixOfTheNaiveOutput) {
  const int histories = testing::scaled(1500);
  for (int i = 0; i < histories; ++i) {
    const auto seed = static_cast<uint64_t>(i);
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const sched::SchedulerOptions options = random_options(random);
    const Rates rates{.preempt = i % 3 == 0 ? 10 : 0, .lose = i % 5 == 0 ? 2 : 0};
    World world(options, rates, Shape{}, seed);
    ASSERT_NO_THROW({
      for (int turn = 0; turn < 600; ++turn) world.turn();
      world.finish();
      world.check_clients();
    }) << describe(options);
  }
}

}  // namespace
}  // namespace fathom::sim
