// How the rows tile_sm90 of fp8_block_gemm and bf16_gemm cut their work: tiles of tokens x columns,
// each over all blocks of K. A CTA takes whole tiles; of the first ones, where whole tiles would
// leave the last wave mostly idle, a run of blocks that may begin and end inside tiles. No more
// tiles than that are cut: CTAs at whole tiles read the same weights and tokens at the same time,
// those at runs do not.
#pragma once

#include <cstdint>

namespace fathom::ops {

#if defined(__CUDACC__)
#define FATHOM_BOTH_SIDES __host__ __device__
#else
#define FATHOM_BOTH_SIDES
#endif

// Blocks [first, last) of a tile.
struct TilePiece {
  int tile, first, last;
};

struct TilePlan {
  int tokens = 0, columns = 0;            // of a tile
  int token_tiles = 0, column_tiles = 0;  // of y
  int blocks = 0;                         // of K
  int cluster = 1;  // CTAs that share a tile's columns, each with tokens / cluster of it; they
                    // count as one CTA here
  int ctas = 0;
  int run = 0;           // blocks of a CTA in the tiles that are cut
  int token_group = 16;  // token tiles that go together: token()
  int cut_tiles = 0;  // the first ones; of the others, tile i belongs to CTA (i - cut_tiles) % ctas

  FATHOM_BOTH_SIDES int tiles() const { return token_tiles * column_tiles; }

  // f(piece) for what CTA `cta` does. Only its first piece can begin inside a tile, and if a piece
  // ends inside one then the last of its run: whoever begins a tile waits for nobody who waits.
  template <class F>
  FATHOM_BOTH_SIDES void for_each_piece(int cta, F f) const {
    const int cut = cut_tiles * blocks, end = (cta + 1) * run < cut ? (cta + 1) * run : cut;
    for (int unit = cta * run; unit < end;) {
      const int first = unit % blocks, left = end - unit;
      const int last = first + left < blocks ? first + left : blocks;
      f(TilePiece{unit / blocks, first, last});
      unit += last - first;
    }
    for (int tile = cut_tiles + cta; tile < tiles(); tile += ctas) f(TilePiece{tile, 0, blocks});
  }

  // The CTA with the tile's last block: those after the one with its first, up to this one, hold
  // the rest of the sums. Of a tile that is cut.
  FATHOM_BOTH_SIDES int last_sharer(int tile) const { return ((tile + 1) * blocks - 1) / run; }

  // Tokens first in groups of token_group tiles: their activations stay in L2 while columns pass.
  FATHOM_BOTH_SIDES int token(int tile) const {
    const Place at = place(tile);
    return at.token * tokens;
  }
  FATHOM_BOTH_SIDES int column(int tile) const {
    const Place at = place(tile);
    return at.column * columns;
  }

 private:
  struct Place {
    int token, column;
  };
  FATHOM_BOTH_SIDES Place place(int tile) const {
    const int first = tile / (token_group * column_tiles) * token_group;
    const int height = token_tiles - first < token_group ? token_tiles - first : token_group;
    const int inside = tile - first * column_tiles;
    return {first + inside % height, inside / height};
  }
};

#undef FATHOM_BOTH_SIDES

// The tile of fp8_block_gemm, blocks of 128 k, and the cut that end first on `processors` CTAs.
TilePlan plan_fp8_tiles(int64_t M, int64_t N, int64_t K, int processors);

// Few tokens: every tile is cut where that spreads the weights better over `slots` CTAs. With
// `tokens` and `columns` of a tile.
TilePlan plan_few_tokens(int64_t M, int64_t N, int64_t blocks, int tokens, int columns, int slots);

// Whole tiles alone.
TilePlan plan_whole_tiles(int64_t M, int64_t N, int64_t blocks, int tokens, int columns, int slots);

}  // namespace fathom::ops
