// How fp8_block_gemm's rows of clusters and of rings cut their work: every block of every group
// once, and no CTA with much more than its share.
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
        const PlanPlaces places = plan_places(plan.groups, plan.cluster, plan.clusters);
        for (int rank = 0; rank <= plan.cluster; ++rank)
          ASSERT_EQ(places.divided(rank * plan.blocks), plan.first_block(rank));
        for (int c = 0; c < plan.clusters; ++c) ASSERT_EQ(places.groups_of(c), plan.groups_of(c));
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

// What was fastest of DeepSeek-V3's layers on an H100, with half a processor a CTA and a whole one.
TEST(ClusterPlanTest, TakesTheFastestMeasured) {
  struct Layer {
    int64_t outputs, blocks;
    int of_halves, of_whole;  // CTAs of a cluster
    bool whole_m1, whole_m32;
  };
  for (const Layer l :
       {Layer{2112, 56, 3, 3, false, true},
        {24576, 12, 1, 1, false, true},
        {32768, 4, 1, 1, false, false},
        {7168, 128, 3, 3, true, true},
        {4608, 56, 3, 3, false, true},
        {7168, 18, 1, 1, false, true},
        {4096, 56, 3, 2, false, true},
        {7168, 16, 1, 1, false, true},
        {16160, 56, 1, 1, false, true}}) {
    const int64_t groups = (l.outputs + 63) / 64;
    const auto cluster_of = [&](ClusterLimits limits) {
      limits.processors = 132;
      return plan_clusters(groups, l.blocks, limits).cluster;
    };
    EXPECT_EQ(cluster_of({.resident = 2}), l.of_halves) << l.outputs << " x " << l.blocks;
    EXPECT_EQ(cluster_of({.whole = true}), l.of_whole) << l.outputs << " x " << l.blocks;
    EXPECT_EQ(clusters_take_whole_processors(1, groups, l.blocks, 132), l.whole_m1) << l.outputs;
    EXPECT_EQ(clusters_take_whole_processors(32, groups, l.blocks, 132), l.whole_m32) << l.outputs;
  }
}

TEST(RingPlanTest, CoversEveryBlockOnce) {
  for (const int processors : {1, 3, 78, 132}) {
    for (const int64_t outputs : {1, 64, 200, 2112, 7168, 24576}) {
      for (const int64_t blocks : {1, 2, 5, 18, 56, 128, 200}) {
        const RingPlan plan = plan_rings(outputs, blocks, processors);
        if (plan.groups == 0) continue;  // left to other rows
        ASSERT_GE(int64_t{plan.groups} * plan.outputs, outputs);
        ASSERT_LE(plan.clusters * plan.parts, processors);
        ASSERT_LE(plan.most_units(), most_ring_units(plan.outputs));
        const PlanPlaces places = plan_places(plan.groups, plan.parts, plan.clusters);
        for (int part = 0; part <= plan.parts; ++part)
          ASSERT_EQ(places.divided(part * plan.blocks), plan.first_block(part));
        for (int c = 0; c < plan.clusters; ++c) ASSERT_EQ(places.groups_of(c), plan.groups_of(c));
        std::vector<int> seen(static_cast<size_t>(plan.groups * blocks));
        for (int c = 0; c < plan.clusters; ++c) {
          if (plan.outputs < 128) {
            ASSERT_EQ(plan.groups_of(c), 1);
          }
          for (int part = 0; part < plan.parts; ++part) {
            const int first = plan.first_block(part), end = plan.first_block(part + 1);
            ASSERT_LT(first, end);
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

// What was fastest of DeepSeek-V3's layers on an H100.
TEST(RingPlanTest, TakesTheFastestMeasured) {
  struct Layer {
    int64_t outputs, blocks;
    int group, parts;
  };
  for (const Layer l :
       {Layer{2112, 56, 64, 3},
        {24576, 12, 128, 1},
        {32768, 4, 128, 1},
        {7168, 128, 64, 1},
        {4608, 56, 80, 2},
        {7168, 18, 64, 1},
        {4096, 56, 64, 2},
        {7168, 16, 64, 1},
        {16160, 56, 128, 1}}) {
    const RingPlan plan = plan_rings(l.outputs, l.blocks, 132);
    EXPECT_EQ(plan.outputs, l.group) << l.outputs << " x " << l.blocks;
    EXPECT_EQ(plan.parts, l.parts) << l.outputs << " x " << l.blocks;
  }
}

}  // namespace
}  // namespace fathom::ops
