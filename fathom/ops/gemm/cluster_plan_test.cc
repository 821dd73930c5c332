// How fp8_block_gemm's row of clusters cuts its work: every block of every group once, and no CTA
// with much more than its share.
#include <gtest/gtest.h>

#include <vector>

#include "fathom/ops/gemm/fp8_block_gemm_rows.h"

namespace fathom::ops {
namespace {

TEST(ClusterPlanTest, CoversEveryBlockOnce) {
  for (const int slots : {1, 3, 78, 132}) {
    for (const int64_t groups : {1, 2, 17, 33, 66, 67, 112, 384}) {
      for (const int64_t blocks : {1, 2, 4, 7, 18, 56, 128}) {
        const ClusterPlan plan = plan_clusters(groups, blocks, {.processors = slots});
        ASSERT_LE(plan.clusters * plan.cluster, std::max(slots, 1));
        std::vector<int> seen(static_cast<size_t>(groups * blocks));
        for (int c = 0; c < plan.clusters; ++c) {
          for (int rank = 0; rank < plan.cluster; ++rank) {
            const int first = plan.first_block(rank), end = plan.first_block(rank + 1);
            ASSERT_LT(first, end);
            ASSERT_LE(plan.groups_of(c) * (end - first), plan.most_units());
            for (int i = 0; i < plan.groups_of(c); ++i) {
              for (int b = first; b < end; ++b)
                ++seen[static_cast<size_t>((c + i * plan.clusters) * blocks + b)];
            }
          }
        }
        for (const int times : seen) ASSERT_EQ(times, 1);
      }
    }
  }
}

// DeepSeek-V3's layers on 132 processors, groups of 64 outputs and two CTAs each, or groups of 128:
// a CTA that has memory to itself goes up to twice as fast as its share.
TEST(ClusterPlanTest, BalancesDecodeProducts) {
  struct Layer {
    int64_t outputs, blocks;
  };
  for (const Layer l :
       {Layer{2112, 56},
        {24576, 12},
        {32768, 4},
        {7168, 128},
        {4608, 56},
        {7168, 18},
        {4096, 56}}) {
    for (const int resident : {1, 2}) {
      const int64_t group = 128 / resident, groups = (l.outputs + group - 1) / group;
      const ClusterPlan plan =
          plan_clusters(groups, l.blocks, {.processors = 132, .resident = resident});
      const double fair = static_cast<double>(groups * l.blocks) / 132;
      EXPECT_LE(plan.most_units(), 2.1 * fair) << l.outputs << " x " << l.blocks;
      EXPECT_LE(plan.clusters * plan.cluster, 132 * resident);
    }
  }
}

// A CTA that keeps its part of K in shared memory gets no more than fits, where clusters can see to
// it.
TEST(ClusterPlanTest, KeepsPartsOfKSmall) {
  for (const int64_t blocks : {4, 56, 128}) {
    const ClusterPlan plan =
        plan_clusters(64, blocks, {.processors = 132, .resident = 2, .most_blocks = 40});
    EXPECT_LE(plan.most_blocks(), 40);
  }
}

}  // namespace
}  // namespace fathom::ops
