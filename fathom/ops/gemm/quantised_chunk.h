// 32 activations rounded to one or two int8 digits, with all that a product needs of them.
#pragma once

#include <cstdint>

#include "fathom/ops/gemm/packed_layout.h"

namespace fathom::ops {

// x is about d * q[0] with one digit, d * (256 q[0] + q[1]) with two.
template <int kDigits>
struct QuantisedChunk {
  int8_t q[kDigits][kChunk];
  float d;
  float d_sum;                // d * the sum of what d multiplies: a block's minimum multiplies it
  int32_t start[kDigits][2];  // -offset * sum of the first and of the last 16 of a digit
  int32_t start_all;          // -offset * the sum of what d multiplies
};

// 32 activations of a row that has one scale: its digits alone.
struct Int8Chunk {
  int8_t q[1][kChunk];
};

// Where the chunk of token m and k lies: tokens are interleaved by `tile`, so that a tile of
// products reads one stream.
constexpr int64_t chunk_index(int64_t m, int64_t k, int64_t K, int tile) {
  return (m / tile * (K / kChunk) + k / kChunk) * tile + m % tile;
}

}  // namespace fathom::ops
