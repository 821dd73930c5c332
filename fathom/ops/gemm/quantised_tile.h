// 32 activations each of a tile of tokens, rounded to one or two int8 digits, with all that a
// product needs of them.
#pragma once

#include <cstdint>

#include "fathom/ops/gemm/packed_layout.h"

namespace fathom::ops {

// x is about d * its digit, or d * (256 * the first + the second) of two. As words, the bytes of a
// token's two digits hold the 32 integers that d multiplies; with scales of 16 k there is then no
// d_sum or start.
template <int kDigits, int kTokens>
struct QuantisedTile {
  alignas(64) int8_t q[kTokens * kDigits * kChunk];
  float unit[kTokens];        // d; with two digits, power_operand(d)
  float d_sum[kTokens];       // d * the sum of what d multiplies: a block's minimum multiplies it
  int32_t start[2][kTokens];  // -offset * that sum; with scales of 16 k, of the first and last 16
};

// Which tile holds token m and k: a product with its tokens reads one stream.
constexpr int64_t tile_index(int64_t m, int64_t k, int64_t K, int tile) {
  return m / tile * (K / kChunk) + k / kChunk;
}

}  // namespace fathom::ops
