#include "fathom/ops/gemm/fp8_tile_plan.h"

namespace fathom::ops {
namespace {

// Measured on an H200, in cycles: a block of a tile, and a tile's end beside the next one's start.
struct TileShape {
  int tokens, columns;
  int64_t block, end;
};
constexpr TileShape kShapes[] = {
    {256, 128, 1370, 1200},
    {256, 64, 890, 800},
    {128, 128, 800, 800},
};
constexpr int64_t kSharing = 7000;  // sums through memory

int pieces(int64_t n, int64_t each) {
  return static_cast<int>((n + each - 1) / each);
}

}  // namespace

TilePlan plan_tiles(int64_t M, int64_t N, int64_t K, int processors) {
  TilePlan best;
  int64_t least = 0;
  for (const TileShape& shape : kShapes) {
    TilePlan plan{
        .tokens = shape.tokens,
        .columns = shape.columns,
        .token_tiles = pieces(M, shape.tokens),
        .column_tiles = pieces(N, shape.columns),
        .blocks = static_cast<int>(K / 128),
    };
    const auto consider = [&](int ctas, int run, int64_t time) {
      if (least > 0 && time >= least) return;
      least = time;
      best = plan;
      best.ctas = ctas;
      best.run = run;
    };
    const int tiles = plan.tiles(), units = tiles * plan.blocks;
    const int each = pieces(tiles, processors);
    consider(pieces(tiles, each), 0, each * (plan.blocks * shape.block + shape.end));
    const int run = pieces(units, processors);
    consider(
        pieces(units, run), run, run * shape.block + pieces(run, plan.blocks) * shape.end + kSharing
    );
  }
  return best;
}

}  // namespace fathom::ops
