// Every block of every tile belongs to one CTA, pieces begin and end as promised.
#include "fathom/ops/gemm/tile_plan.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace fathom::ops {
namespace {

struct Shape {
  int64_t M, N, K;
};

class TilePlanTest : public ::testing::TestWithParam<Shape> {};

void expect_every_block_once(const TilePlan& plan, int slots) {
  ASSERT_LE(plan.ctas, slots);
  std::vector<int> times(static_cast<size_t>(plan.tiles() * plan.blocks));
  for (int cta = 0; cta < plan.ctas; ++cta) {
    int order = 0;
    bool open = false;
    plan.for_each_piece(cta, [&](const TilePiece& p) {
      EXPECT_TRUE(!open || p.tile >= plan.cut_tiles)
          << "only a run's last piece ends inside a tile";
      EXPECT_TRUE(p.first == 0 || order == 0) << "only the first piece begins inside a tile";
      ASSERT_LT(p.first, p.last);
      ASSERT_LE(p.last, plan.blocks);
      for (int b = p.first; b < p.last; ++b) ++times[static_cast<size_t>(p.tile * plan.blocks + b)];
      if (p.first == 0 && p.tile < plan.cut_tiles) {
        EXPECT_EQ(plan.last_sharer(p.tile) > cta, p.last < plan.blocks);
        EXPECT_LT(plan.last_sharer(p.tile), plan.ctas);
      }
      open = open || p.last < plan.blocks;
      ++order;
    });
  }
  for (const int t : times) ASSERT_EQ(t, 1);
}

TEST_P(TilePlanTest, EveryBlockOnce) {
  const auto [M, N, K] = GetParam();
  expect_every_block_once(plan_fp8_tiles(M, N, K, 132), 132);
  expect_every_block_once(plan_few_tokens(M, N, K / 64, 128, 64, 264), 264);
  expect_every_block_once(plan_few_tokens(M, N, K / 64, 64, 64, 264), 264);
  expect_every_block_once(plan_whole_tiles(M, N, K / 64, 128, 256, 132), 132);
}

TEST_P(TilePlanTest, TilesCoverY) {
  const auto [M, N, K] = GetParam();
  const TilePlan plan = plan_fp8_tiles(M, N, K, 132);
  std::set<std::pair<int, int>> places;
  for (int tile = 0; tile < plan.tiles(); ++tile) {
    places.emplace(plan.token(tile), plan.column(tile));
    EXPECT_LT(plan.token(tile), M);
    EXPECT_LT(plan.column(tile), N);
  }
  EXPECT_EQ(places.size(), static_cast<size_t>(plan.tiles()));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes,
    TilePlanTest,
    ::testing::Values(
        Shape{1, 64, 64 * 2},
        Shape{32, 4096, 4096},
        Shape{32, 576, 2048},
        Shape{129, 77, 128},
        Shape{150, 320, 384},
        Shape{256, 7168, 16384},
        Shape{1024, 2112, 7168},
        Shape{1024, 4608, 7168},
        Shape{1024, 7168, 2048},
        Shape{4096, 32768, 512},
        Shape{16384, 4096, 7168},
        Shape{5000, 200, 256}
    )
);

}  // namespace
}  // namespace fathom::ops
