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
inline constexpr int kStageChunks = 18;   // of bytes, staged together at most
inline constexpr int kStageTokens = 128;  // that meet them

// Scales of 16 k are multiplied with their codes: both and the two digits of an activation fit into
// words, of which a sum of 16 k cannot overflow (32512 * 32 * 128 * 16 < 2^31).
template <DType kType, int kDigits>
inline constexpr bool kWords = packed_layout(kType).scales == 16 && kDigits == 2;
template <DType kType, int kDigits>
inline constexpr bool kStaged = packed_layout(kType).scales != 16 || kWords<kType, kDigits>;
// Staged together at most.
template <DType kType, int kDigits>
inline constexpr int kStagedChunks = kWords<kType, kDigits> ? kStageChunks / 2 : kStageChunks;

// Chunks of kStageRows rows.
struct BlockStage {
  // Bytes [chunk][j][vector][4 L] or words [chunk][j][vector][2 L], j of 4 k or of 2.
  alignas(64) uint8_t codes[kStageChunks * kChunk * kStageRows];
  alignas(64) float d[kStageChunks * kStageRows];  // [chunk][vector][L]
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
  template <DType kType, int kDigits>
  HWY_NOINLINE void fill(const RowsAt* rows, int64_t K, int64_t k, int chunks) {
    for (int c = 0; c < chunks; ++c, k += kChunk) {
#pragma GCC unroll 2
      for (int v = 0; v < kStageVectors; ++v) {
        if (rows[v].part == 0) prefetch_ahead<kType>(rows[v].group, K, k);
        if constexpr (kWords<kType, kDigits>)
          fill_words<kType>(rows[v], k, c, v);
        else
          fill_bytes<kType>(rows[v], k, c, v);
        const ChunkScales scales =
            chunk_scales<kType>(block_scales<kType>(rows[v], K, k), rows[v], k);
        hn::Store(scales.d, F32(), d + (c * kStageVectors + v) * kLanes);
        hn::Store(scales.m, F32(), m + (c * kStageVectors + v) * kLanes);
      }
    }
  }
  template <DType kType>
  HWY_INLINE void fill_bytes(const RowsAt& rows, int64_t k, int c, int v) {
    const uint8_t* from = rows.group + packed_layout(kType).codes(k) + 4 * kLanes * rows.part;
    uint8_t* to = codes + (c * 8 * kStageVectors + v) * 4 * kLanes;
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j)
      hn::Store(code_vector<kType>(from, j), U8(), to + j * kStageVectors * 4 * kLanes);
  }
  template <DType kType>
  HWY_INLINE void fill_words(const RowsAt& rows, int64_t k, int c, int v) {
    constexpr PackedLayout kLayout = packed_layout(kType);
    const VW offset = hn::Set(W16(), (max_code(kLayout) + 1) / 2);
    const uint8_t* from = rows.group + kLayout.codes(k) + 4 * kLanes * rows.part;
    const int i = static_cast<int>(k % kLayout.block / 16);
    int16_t* to = words(c) + v * 2 * kLanes;
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const VI scale = load_i8_as_i32(rows.group + kLayout.scale(k, i + half) + kLanes * rows.part);
      const VW scales = hn::BitCast(
          W16(), hn::Or(hn::ShiftLeft<16>(scale), hn::And(scale, hn::Set(I32(), 0xffff)))
      );
#pragma GCC unroll 4
      for (int j = 4 * half; j < 4 * half + 4; ++j) {
        const VU8 bytes = code_vector<kType>(from, j);
        const VW pairs[2] = {first_words(bytes), last_words(bytes)};
#pragma GCC unroll 2
        for (int p = 0; p < 2; ++p)
          hn::Store(
              (pairs[p] - offset) * scales, W16(), to + (2 * j + p) * kStageVectors * 2 * kLanes
          );
      }
    }
  }
  int16_t* words(int c) {
    return reinterpret_cast<int16_t*>(codes + c * kChunk * kStageRows * 2);
  }
  const int16_t* words(int c) const {
    return reinterpret_cast<const int16_t*>(codes + c * kChunk * kStageRows * 2);
  }
};

// Rows of sums for kStageRows rows of weights, a token's `stride` after the last one's.
struct StageSums {
  float* at;
  int64_t stride;
};

// One chunk of words, of whose halves the sums are apart.
template <int kTokens>
HWY_INLINE void add_word_chunk(
    const int16_t* words,
    const ChunkScales* scales,
    const TokensAt<2>& x,
    VF (&total)[kStageVectors][kTokens]
) {
  VI sums[2][kStageVectors][kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t)
    sums[0][0][t] = sums[0][1][t] = sums[1][0][t] = sums[1][1][t] = hn::Zero(I32());
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const int16_t* at = words + (8 * half + j) * kStageVectors * 2 * kLanes;
      const VW w[kStageVectors] = {hn::Load(W16(), at), hn::Load(W16(), at + 2 * kLanes)};
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const VW pair = broadcast_pair(x.words(t) + 16 * half + 2 * j);
        sums[half][0][t] = pair_dot(sums[half][0][t], w[0], pair);
        sums[half][1][t] = pair_dot(sums[half][1][t], w[1], pair);
      }
    }
  }
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 2
    for (int v = 0; v < kStageVectors; ++v) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t)
        total[v][t] = hn::MulAdd(
            hn::ConvertTo(F32(), sums[half][v][t]), x.scaled(scales[v].d, t), total[v][t]
        );
    }
  }
}

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
    ChunkScales scales[kStageVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kStageVectors; ++v) {
      const int at = (c * kStageVectors + v) * kLanes;
      scales[v] = {hn::Load(d, stage.d + at), hn::Load(d, stage.m + at)};
    }
    if constexpr (kWords<kType, kDigits>) {
      add_word_chunk(stage.words(c), scales, x, total);
    } else {
      const uint8_t* codes = stage.codes + c * kChunk * kStageRows;
      const auto staged = [codes](int v, int j) HWY_ATTR {
        return hn::Load(U8(), codes + (j * kStageVectors + v) * 4 * kLanes);
      };
      add_chunk<kType, kDigits>(staged, scales, x, total);
    }
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
