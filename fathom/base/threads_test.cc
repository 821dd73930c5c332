#include "fathom/base/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace fathom {
namespace {

TEST(ThreadsTest, PartsCoverAllOnceAtMultiplesOfTheGrain) {
  for (const long n : {0L, 1L, 31L, 32L, 1000L}) {
    for (const int threads : {1, 2, 7}) {
      long next = 0;
      for (int i = 0; i < threads; ++i) {
        const Range mine = part(n, 32, i, threads);
        EXPECT_EQ(mine.begin, next);
        EXPECT_TRUE(mine.begin % 32 == 0 || mine.begin == n);
        next = mine.end;
      }
      EXPECT_EQ(next, n);
    }
  }
}

TEST(ThreadsTest, RunCallsEachIndexOnce) {
  ThreadPool pool(3);
  for (int round = 0; round < 1000; ++round) {
    std::vector<std::atomic<int>> calls(3);
    pool.run([&](int i, int) { ++calls[static_cast<size_t>(i)]; });
    for (const std::atomic<int>& count : calls) ASSERT_EQ(count.load(), 1);
  }
}

TEST(ThreadsTest, RunTakesClosuresLargerThanItCopies) {
  ThreadPool pool(2);
  std::atomic<int> sum{0};
  const long a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7;
  pool.run([&, a, b, c, d, e, f, g](int, int) {
    sum += static_cast<int>(a + b + c + d + e + f + g);
  });
  EXPECT_EQ(sum.load(), 2 * 28);
}

TEST(ThreadsTest, SleepersAreWoken) {
  ThreadPool pool(2);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> calls{0};
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // longer than workers spin
    pool.run([&](int, int) { ++calls; });
    EXPECT_EQ(calls.load(), 2);
  }
}

TEST(ThreadsTest, ObservedTimesAreThoseOfTheRun) {
  using std::chrono::milliseconds;
  ThreadPool pool(2);
  PoolTimes times;
  pool.observe(&times);
  pool.run([](int i, int) { std::this_thread::sleep_for(milliseconds(i == 0 ? 2 : 30)); });
  pool.observe(nullptr);
  pool.run([](int, int) {});
  EXPECT_EQ(times.runs, 1);
  EXPECT_GE(times.own, 2'000'000);
  EXPECT_GE(times.own + times.unfinished, 30'000'000);
  EXPECT_GE(times.unfinished, 1'000'000);
  EXPECT_GE(times.signals, 0);
  EXPECT_GE(times.late, 0);
}

TEST(ThreadsTest, SharedRangesAreTakenOnce) {
  ThreadPool pool(3);
  for (const long n : {0L, 1L, 10L, 997L}) {
    std::vector<std::atomic<int>> taken(static_cast<size_t>(n));
    SharedRanges ranges(n, 10, pool.size());
    pool.run([&](int i, int) {
      for (Range range; ranges.take(i, range);)
        for (long at = range.begin; at < range.end; ++at) ++taken[static_cast<size_t>(at)];
    });
    for (const std::atomic<int>& count : taken) EXPECT_EQ(count.load(), 1);
  }
}

TEST(ThreadsTest, AnIdleThreadTakesAnothersRangesFromTheBack) {
  SharedRanges ranges(100, 10, 2);
  const auto expect = [&](int thread, long begin, long end) {
    Range range{};
    ASSERT_TRUE(ranges.take(thread, range));
    EXPECT_EQ(range.begin, begin);
    EXPECT_EQ(range.end, end);
  };
  expect(1, 50, 80);
  expect(1, 80, 90);
  expect(1, 90, 100);
  expect(1, 40, 50);
  expect(1, 30, 40);
  expect(0, 0, 20);
  expect(0, 20, 30);
  Range range{};
  EXPECT_FALSE(ranges.take(0, range));
  EXPECT_FALSE(ranges.take(1, range));
}

}  // namespace
}  // namespace fathom
