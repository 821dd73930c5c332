// mla_decode, row sm90: the scores of 64 heads and a block's 64 positions, as a warpgroup holds
// them: thread = 32 warp + 4 g + t has heads 16 warp + g, + 8 (index h), of positions 8 j + 2 t,
// + 1.
#pragma once

#include "fathom/ops/attention/mla_split.cuh"
#include "fathom/ops/device/matrix_store.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"

namespace fathom::ops::mla {

constexpr int kWideScores = kBlock / 2;

// Scores of positions that the query does not see become -inf; `first`: the block's first.
__device__ __forceinline__ void mask_scores(
    float (&score)[kWideScores], const Step& step, const Segment& segment, int first, int t
) {
  const bool tree = step.tree_mask != nullptr;
  const int tree_begin = tree ? segment.length - segment.own : segment.length;
  if (first + kBlock <= min(segment.length, tree_begin)) return;
  const int64_t bits = tree ? __ldg(step.tree_mask + step.first_query + segment.query) : int64_t{0};
#pragma unroll
  for (int i = 0; i < kWideScores; ++i) {
    if (i / 2 % 2 != 0) continue;  // both heads alike
    const int position = first + i / 4 * 8 + 2 * t + i % 2, node = position - tree_begin;
    const bool seen =
        position < segment.length && (node < 0 || (bits >> (node < 64 ? node : 63) & 1) != 0);
    if (!seen) score[i] = score[i + 2] = -INFINITY;
  }
}

// Of all positions.
__device__ __forceinline__ float largest_score(const float (&score)[kWideScores], int h) {
  float largest = -INFINITY;
#pragma unroll
  for (int i = 2 * h; i < kWideScores; i += 4)
    largest = fmaxf(largest, fmaxf(score[i], score[i + 1]));
  largest = fmaxf(largest, __shfl_xor_sync(device::kFullWarp, largest, 1));
  return fmaxf(largest, __shfl_xor_sync(device::kFullWarp, largest, 2));
}

// Probabilities in pairs, as operand A has them, to a panel [64 heads][64 positions].
__device__ __forceinline__ void store_weights(
    uint8_t* panel, const uint32_t (&weight)[kBlock / 16][4]
) {
  // Blocks of a step of 16 positions: heads, heads + 8, and both 8 positions further.
  const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
  const int row = thread / 32 * 16 + lane % 16;
  const uint32_t to = device::shared_address(panel + row * 128);
#pragma unroll
  for (int k = 0; k < kBlock / 16; ++k) {
    const uint32_t chunk = static_cast<uint32_t>((2 * k + lane / 16) ^ (row & 7));
    device::store_blocks(to + chunk * 16, weight[k][0], weight[k][1], weight[k][2], weight[k][3]);
  }
}

}  // namespace fathom::ops::mla
