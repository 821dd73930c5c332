#include "fathom/core/step_profile.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "fathom/core/exec.h"

namespace fathom {
namespace {

TEST(StepProfileTest, CallsWithinACallAreItsOwn) {
  ThreadPool pool(2);
  StepProfile profile;
  const Exec exec{.pool = &pool, .profile = &profile};
  const auto outer = [&] {
    const StepProfile::Call call(&profile, "outer");
    const StepProfile::Call inner(&profile, "inner");
    exec.on_threads([](int, int) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); });
  };
  outer();  // before start(): not measured
  profile.start(pool);
  outer();
  outer();
  { const StepProfile::Call call(&profile, "other"); }
  profile.stop();
  outer();
  ASSERT_EQ(profile.end() - profile.begin(), 2);
  const StepProfile::Entry& entry = *profile.begin();
  EXPECT_EQ(entry.op, "outer");
  EXPECT_EQ(entry.calls, 2);
  EXPECT_EQ(entry.pool.runs, 2);
  EXPECT_GE(entry.nanoseconds, 2'000'000);
  EXPECT_GE(entry.pool.own, 2'000'000);
  EXPECT_EQ(profile.begin()[1].op, "other");
  EXPECT_EQ(profile.begin()[1].pool.runs, 0);
  profile.start(pool);
  profile.stop();
  EXPECT_EQ(profile.begin(), profile.end());
}

}  // namespace
}  // namespace fathom
