// PagePool against plain sets that say which step holds what (contracts.md section 13, 3).
#include "fathom/cache/page_pool.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "fathom/base/check.h"
#include "fathom/testing/scale.h"

namespace fathom::cache {
namespace {

TEST(PagePool, GrantIsAllOrNothingAndNeverTheDummy) {
  PagePool pool(5);
  std::vector<PageId> pages;
  EXPECT_FALSE(pool.grant(5, pages));
  EXPECT_TRUE(pages.empty());
  EXPECT_TRUE(pool.grant(4, pages));
  EXPECT_EQ(std::set<PageId>(pages.begin(), pages.end()), (std::set<PageId>{1, 2, 3, 4}));
  EXPECT_FALSE(pool.grant(1, pages));
  EXPECT_TRUE(pool.grant(0, pages));
}

TEST(PagePool, RetireTwiceOrTheDummyIsAnError) {
  PagePool pool(3);
  std::vector<PageId> pages;
  pool.grant(1, pages);
  pool.retire(pages, 0);
  EXPECT_THROW(pool.retire(pages, 0), CheckError);
  EXPECT_THROW(pool.retire(std::vector<PageId>{0}, 0), CheckError);
  EXPECT_THROW(pool.retire(std::vector<PageId>{3}, 0), CheckError);
}

TEST(PagePool, StepsCommitInOrder) {
  PagePool pool(3);
  pool.committed(2);
  EXPECT_THROW(pool.committed(2), CheckError);
}

TEST(PagePool, AgreesWithTheStepsThatHoldEachPage) {
  constexpr int kTotal = 40;
  std::mt19937 random(5);
  PagePool pool(kTotal);
  std::map<PageId, StepId> held;              // granted pages and the last step that uses them
  std::map<StepId, std::set<PageId>> fenced;  // by step: dropped pages that it may touch
  StepId committed = 0, planned = 0;
  for (int i = 0; i < testing::scaled(300'000); ++i) {
    const size_t limbo = [&] {
      size_t n = 0;
      for (const auto& [step, pages] : fenced) n += pages.size();
      return n;
    }();
    const size_t free = kTotal - 1 - held.size() - limbo;
    ASSERT_EQ(pool.free(), static_cast<int>(free)) << "operation " << i;
    ASSERT_EQ(pool.in_limbo(), static_cast<int>(limbo));
    std::vector<PageId> pages;
    switch (random() % 4) {
      case 0: {
        const int n = static_cast<int>(random() % 6);
        ASSERT_EQ(pool.grant(n, pages), static_cast<size_t>(n) <= free);
        for (const PageId page : pages) {
          ASSERT_TRUE(page > 0 && held.emplace(page, 0).second) << page;
          for (const auto& [step, dropped] : fenced) ASSERT_FALSE(dropped.contains(page));
        }
        break;
      }
      case 1:  // plan a step that uses some pages
        ++planned;
        for (auto& [page, last] : held) {
          if (random() % 2) last = planned;
        }
        break;
      case 2:
        if (committed == planned) break;
        pool.committed(++committed);
        fenced.erase(committed);
        break;
      default:
        if (held.empty()) break;
        const auto which = std::next(held.begin(), static_cast<int64_t>(random() % held.size()));
        pages = {which->first};
        pool.retire(pages, which->second);
        if (which->second > committed) fenced[which->second].insert(which->first);
        held.erase(which);
    }
    if (i % 100 == 0) pool.check();
  }
}

TEST(PagePool, ResetTakesAllBack) {
  PagePool pool(10);
  std::vector<PageId> pages;
  pool.grant(6, pages);
  pool.retire(std::span(pages).first(3), 7);
  pool.reset(9);
  EXPECT_EQ(pool.free(), 9);
  pool.check();
  pages.clear();
  pool.grant(1, pages);
  pool.retire(pages, 9);  // step 9 will never come
  EXPECT_EQ(pool.free(), 9);
}

}  // namespace
}  // namespace fathom::cache
