// Block-quantised weights against many tokens: codes and scales of some k of two vectors of rows
// are unpacked once, into the first-level cache, and meet all tokens there. Adds the same numbers
// in the same order as block_tile-inl.h.
#if defined(FATHOM_OPS_GEMM_BLOCK_STAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_BLOCK_STAGE_INL_H_
#undef FATHOM_OPS_GEMM_BLOCK_STAGE_INL_H_
#else
#define FATHOM_OPS_GEMM_BLOCK_STAGE_INL_H_
#endif

#include <algorithm>

#include "fathom/ops/gemm/block_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

inline constexpr int kStageVectors = 2;
inline constexpr int kStageRows = kStageVectors * kLanes;
inline constexpr int kStageChunks = 18;   // staged together at most
inline constexpr int kStageTokens = 128;  // that meet them

// Formats with one scale for the products of a chunk.
template <DType kType>
inline constexpr bool kStaged = packed_layout(kType).scales != 16;

// Chunks of kStageRows rows.
struct BlockStage {
  alignas(64) uint8_t codes[kStageChunks * kChunk * kStageRows];  // [chunk][j][vector][4 L]
  alignas(64) float d[kStageChunks * kStageRows];                 // [chunk][vector][L]
  alignas(64) float m[kStageChunks * kStageRows];

  // From memory into the second-level cache with the stage before, from there as they are unpacked.
  template <DType kType>
  static HWY_INLINE void prefetch_ahead(const uint8_t* group, int64_t K, int64_t k) {
    constexpr int kGroups = std::max(1, kStageVectors / kParts);
    prefetch_codes<kType, 1024, true>(group, K, k, kGroups);
    prefetch_codes<kType, 12288, false>(group, K, k, kGroups);
    prefetch_scales<kType>(group, K, k, kGroups);
  }
  // `chunks` of them from k on.
  template <DType kType>
  HWY_NOINLINE void fill(const RowsAt* rows, int64_t K, int64_t k, int chunks) {
    constexpr PackedLayout kLayout = packed_layout(kType);
    const U8 bytes;
    for (int c = 0; c < chunks; ++c, k += kChunk) {
#pragma GCC unroll 2
      for (int v = 0; v < kStageVectors; ++v) {
        if (rows[v].part == 0) prefetch_ahead<kType>(rows[v].group, K, k);
        const uint8_t* from = rows[v].group + kLayout.codes(k) + 4 * kLanes * rows[v].part;
        uint8_t* to = codes + (c * 8 * kStageVectors + v) * 4 * kLanes;
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j)
          hn::Store(code_vector<kType>(from, j), bytes, to + j * kStageVectors * 4 * kLanes);
        const ChunkScales scales =
            chunk_scales<kType>(block_scales<kType>(rows[v], K, k), rows[v], k);
        hn::Store(scales.d, F32(), d + (c * kStageVectors + v) * kLanes);
        hn::Store(scales.m, F32(), m + (c * kStageVectors + v) * kLanes);
      }
    }
  }
};

// Rows of sums for kStageRows rows of weights, a token's `stride` after the last one's.
struct StageSums {
  float* at;
  int64_t stride;
};

// to[t, row] = from[t, row], or 0 where there is no `from`, + the products of `chunks` staged
// chunks with kTokens tokens at x. `next`: the activations that are wanted after these.
template <DType kType, int kDigits, int kTokens>
HWY_NOINLINE void multiply_block_stage(
    const BlockStage& stage,
    int chunks,
    TokensAt<kDigits> x,
    const TokenTile<kDigits>* next,
    StageSums from,
    StageSums to
) {
  const F32 d;
  VF total[kStageVectors][kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) total[0][t] = total[1][t] = hn::Zero(d);
  if (from.at != nullptr) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      total[0][t] = hn::LoadU(d, from.at + t * from.stride);
      total[1][t] = hn::LoadU(d, from.at + t * from.stride + kLanes);
    }
  }
  for (int c = 0; c < chunks; ++c, ++x.tile, ++next) {
#pragma GCC unroll 8
    for (size_t line = 0; line < sizeof(*next); line += 64)
      prefetch_near(reinterpret_cast<const uint8_t*>(next) + line);
    const uint8_t* codes = stage.codes + c * kChunk * kStageRows;
    const auto staged = [codes](int v, int j) HWY_ATTR {
      return hn::Load(U8(), codes + (j * kStageVectors + v) * 4 * kLanes);
    };
    ChunkScales scales[kStageVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kStageVectors; ++v) {
      const int at = (c * kStageVectors + v) * kLanes;
      scales[v] = {hn::Load(d, stage.d + at), hn::Load(d, stage.m + at)};
    }
    add_chunk<kType, kDigits>(staged, scales, x, total);
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    hn::StoreU(total[0][t], d, to.at + t * to.stride);
    hn::StoreU(total[1][t], d, to.at + t * to.stride + kLanes);
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
