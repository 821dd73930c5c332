#include "fathom/ops/quant/expert_quant.h"

#include <gtest/gtest.h>

namespace fathom::ops {
namespace {

TEST(GridForTest, BlocksShrinkWhileProcessorsIdleAndNoMoreStartThanRun) {
  EXPECT_EQ(grid_for(0, 132).ctas, 0);
  EXPECT_EQ(grid_for(1, 132).ctas, 1);
  for (const int64_t work : {1, 127, 896, 16896, 33792, 67584, 1 << 20, 1 << 28}) {
    const GridShape shape = grid_for(work, 132);
    EXPECT_GE(shape.threads, 128);
    EXPECT_LE(shape.threads, 512);
    EXPECT_LE(shape.ctas * shape.threads, 132 * 2048);
    const bool covered = shape.ctas * shape.threads >= work;
    EXPECT_TRUE(covered || shape.ctas * shape.threads == 132 * 2048) << work;
    // A larger block would have left processors idle.
    EXPECT_TRUE(shape.threads == 512 || work <= int64_t{131} * 2 * shape.threads) << work;
  }
}

}  // namespace
}  // namespace fathom::ops
