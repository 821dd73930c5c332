#include "fathom/ops/gemm/tile_plan.h"

#include <algorithm>

namespace fathom::ops {
namespace {

// Measured on an H200, in cycles: a block of a tile, and a tile's end beside the next one's start.
struct TileShape {
  int cluster, tokens, columns;
  int64_t block, end;
  int64_t start;  // until the CTAs of a cluster have met
  // What cutting costs: sums through memory, and blocks that no other cluster reads at the same
  // time.
  int64_t sharing;
  double alone;
};
constexpr TileShape kShapes[] = {
    {1, 256, 128, 1370, 1200, 0, 7000, 1.3},
    {1, 256, 64, 890, 800, 0, 7000, 1.3},
    {1, 128, 128, 800, 800, 0, 7000, 1.3},
    {2, 512, 128, 1340, 1200, 2000, 9000, 1.15},
};

// A wave of 132 tiles of 256 x 128 reads 2048 tokens and as many outputs; 4096 tokens of a long K
// do not stay in L2.
constexpr int kGroupTokens = 2048;

int pieces(int64_t n, int64_t each) {
  return static_cast<int>((n + each - 1) / each);
}

TilePlan tiles_of(int64_t M, int64_t N, int64_t blocks, int tokens, int columns) {
  return {
      .tokens = tokens,
      .columns = columns,
      .token_tiles = pieces(M, tokens),
      .column_tiles = pieces(N, columns),
      .blocks = static_cast<int>(blocks),
  };
}

}  // namespace

TilePlan plan_fp8_tiles(int64_t M, int64_t N, int64_t K, int processors) {
  TilePlan best;
  double least = 0;
  for (const TileShape& shape : kShapes) {
    TilePlan plan = tiles_of(M, N, K / 128, shape.tokens, shape.columns);
    plan.cluster = shape.cluster;
    plan.token_group = kGroupTokens / shape.tokens;
    const int slots = processors / shape.cluster;
    const auto consider = [&](int ctas, int waves, int cut_tiles) {
      const int run = pieces(int64_t{cut_tiles} * plan.blocks, ctas);
      double time =
          static_cast<double>(waves * (plan.blocks * shape.block + shape.end) + shape.start);
      if (cut_tiles > 0) {
        time += shape.alone * static_cast<double>(run * shape.block) +
                static_cast<double>(pieces(run, plan.blocks) * shape.end + shape.sharing);
      }
      if (least > 0 && time >= least) return;
      least = time;
      best = plan;
      best.ctas = ctas;
      best.run = run;
      best.cut_tiles = cut_tiles;
    };
    const int tiles = plan.tiles(), full = tiles / slots;
    consider(std::min(tiles, slots), pieces(tiles, slots), 0);
    if (tiles % slots == 0) continue;
    // The last full wave is cut too, or each part would be short.
    const int whole = std::max(full - 1, 0);
    consider(slots, whole, tiles - whole * slots);
  }
  return best;
}

TilePlan plan_whole_tiles(
    int64_t M, int64_t N, int64_t blocks, int tokens, int columns, int slots
) {
  TilePlan plan = tiles_of(M, N, blocks, tokens, columns);
  plan.ctas = std::min(plan.tiles(), slots);
  return plan;
}

TilePlan plan_few_tokens(int64_t M, int64_t N, int64_t blocks, int tokens, int columns, int slots) {
  constexpr int kSharers = 4;  // who begins a tile adds the others' sums one after another
  constexpr int kSharing = 8;  // what that costs, in blocks
  TilePlan plan = plan_whole_tiles(M, N, blocks, tokens, columns, slots);
  // Up to 64 tokens the weights bound the time, and a wave that is not full still reads as fast as
  // memory gives: 75.5 us for 4096 -> 28672 on an H200, 84.2 in runs; of 128 tokens 82.6 and 73.7.
  if (tokens <= 64 && plan.tiles() >= slots) return plan;
  const int ctas = std::min(slots, plan.tiles() * kSharers);
  const int run = pieces(int64_t{plan.tiles()} * blocks, ctas);
  if (run + kSharing >= pieces(plan.tiles(), slots) * plan.blocks) return plan;
  plan.ctas = ctas;
  plan.run = run;
  plan.cut_tiles = plan.tiles();
  return plan;
}

}  // namespace fathom::ops
