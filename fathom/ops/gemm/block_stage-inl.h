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
inline constexpr int kStageGroups = std::max(1, kStageVectors / kParts);
inline constexpr int kStageBytes = 18 * kChunk * kStageRows;  // of codes staged together at most

// Codes as words, to meet the two digits of an activation as one: without their offset, and
// multiplied with scales of 16 k. No sum can overflow: 32512 * 32 * 128 * 16 < 2^31 of 16 k with
// their scales, 32512 * 128 * 32 of 32 k.
template <DType kType, int kDigits>
inline constexpr bool kWords = kDigits == 2 && (packed_layout(kType).scales == 16 || kWordDots);
// Tokens that meet a stage: words take longer to fill in, and their stage holds half as many k.
template <DType kType, int kDigits>
inline constexpr int kStageTokens = kWords<kType, kDigits> ? 256 : 128;
template <DType kType, int kDigits>
inline constexpr bool kStaged = packed_layout(kType).scales != 16 || kWords<kType, kDigits>;
// Chunks of kStageRows rows.
template <DType kType, int kDigits>
struct BlockStage {
  static constexpr int kCodeBytes = kWords<kType, kDigits> ? 2 : 1;
  static constexpr int kMost = kStageBytes / (kChunk * kStageRows * kCodeBytes);

  // Bytes [chunk][j][vector][4 L] or words [chunk][j][vector][2 L], j of 4 k or of 2.
  alignas(64) uint8_t codes[kStageBytes];
  alignas(64) float d[kMost * kStageRows];  // [chunk][vector][L]
  alignas(64) float m[kMost * kStageRows];

  // `chunks` of them from k on.
  HWY_NOINLINE void fill(const RowsAt* rows, int64_t K, int64_t k, int chunks) {
    for (int c = 0; c < chunks; ++c, k += kChunk) {
#pragma GCC unroll 2
      for (int v = 0; v < kStageVectors; ++v) {
        if (rows[v].part == 0) {
          prefetch_codes<kType, 1024, true>(rows[v].group, K, k, kStageGroups);
          prefetch_scales<kType>(rows[v].group, K, k, kStageGroups);
        }
        if constexpr (kWords<kType, kDigits>)
          fill_words(rows[v], k, c, v);
        else
          fill_bytes(rows[v], k, c, v);
        const ChunkScales scales =
            chunk_scales<kType>(block_scales<kType>(rows[v], K, k), rows[v], k);
        hn::Store(scales.d, F32(), d + (c * kStageVectors + v) * kLanes);
        if constexpr (packed_layout(kType).minimum)
          hn::Store(scales.m, F32(), m + (c * kStageVectors + v) * kLanes);
      }
    }
  }
  HWY_INLINE void fill_bytes(const RowsAt& rows, int64_t k, int c, int v) {
    const uint8_t* from = rows.group + packed_layout(kType).codes(k) + 4 * kLanes * rows.part;
    uint8_t* to = codes + (c * 8 * kStageVectors + v) * 4 * kLanes;
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j)
      hn::Store(code_vector<kType>(from, j), U8(), to + j * kStageVectors * 4 * kLanes);
  }
  HWY_INLINE void fill_words(const RowsAt& rows, int64_t k, int c, int v) {
    constexpr PackedLayout kLayout = packed_layout(kType);
    const VW offset = hn::Set(W16(), kLayout.minimum ? 0 : (max_code(kLayout) + 1) / 2);
    const uint8_t* from = rows.group + kLayout.codes(k) + 4 * kLanes * rows.part;
    const int i = static_cast<int>(k % kLayout.block / 16);
    int16_t* to = words(c) + v * 2 * kLanes;
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      VW scales = hn::Zero(W16());
      if constexpr (kLayout.scales == 16) {
        const uint8_t* at = rows.group + kLayout.scale(k, i + half) + kLanes * rows.part;
        const VI scale = load_i8_as_i32(at);
        scales = hn::BitCast(
            W16(), hn::Or(hn::ShiftLeft<16>(scale), hn::And(scale, hn::Set(I32(), 0xffff)))
        );
      }
#pragma GCC unroll 4
      for (int j = 4 * half; j < 4 * half + 4; ++j) {
        const VU8 bytes = code_vector<kType>(from, j);
        const VW pairs[2] = {first_words(bytes), last_words(bytes)};
#pragma GCC unroll 2
        for (int p = 0; p < 2; ++p) {
          VW pair = pairs[p] - offset;
          if constexpr (kLayout.scales == 16) pair = pair * scales;
          hn::Store(pair, W16(), to + (2 * j + p) * kStageVectors * 2 * kLanes);
        }
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

// Lines that are wanted later: they come into the second-level cache a few at a time, while tiles
// are multiplied, since a cache asked for all of them at once makes everything else wait.
struct LinesAhead {
  const uint8_t* at = nullptr;
  const uint8_t* end = nullptr;
  int64_t each = 0;  // bytes at a time

  LinesAhead() = default;
  LinesAhead(const void* from, int64_t bytes, int64_t times)
      : at(static_cast<const uint8_t*>(from)), end(at + bytes), each((bytes + times - 1) / times) {}
  HWY_INLINE void ask() {
    for (const uint8_t* stop = std::min(at + each, end); at < stop; at += 64) prefetch_far(at);
  }
};

// The codes of a group's stage that begins at k and has `chunks`, with what stands between them.
template <DType kType>
LinesAhead codes_ahead(const uint8_t* group, int64_t k, int64_t chunks, int64_t times) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  const int64_t from = kLayout.codes(k);
  return {group + from, kLayout.codes(k + chunks * kChunk) - from, times};
}

// Rows of sums for kStageRows rows of weights, a token's `stride` after the last one's.
struct StageSums {
  float* at;
  int64_t stride;
};

// One chunk of words; with scales of 16 k the sums of its halves are apart.
template <DType kType, int kTokens>
HWY_INLINE void add_word_chunk(
    const int16_t* words,
    const ChunkScales* scales,
    const TokensAt<2>& x,
    VF (&total)[kStageVectors][kTokens]
) {
  constexpr int kPairs = packed_layout(kType).scales == 16 ? 8 : 16;  // of a sum
#pragma GCC unroll 2
  for (int first = 0; first < 16; first += kPairs) {
    VI sums[kStageVectors][kTokens];
#pragma GCC unroll 2
    for (int v = 0; v < kStageVectors; ++v) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) sums[v][t] = hn::Zero(I32());
    }
#pragma GCC unroll 16
    for (int j = first; j < first + kPairs; ++j) {
      VW w[kStageVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kStageVectors; ++v)
        w[v] = hn::Load(W16(), words + (j * kStageVectors + v) * 2 * kLanes);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const VW pair = broadcast_pair(x.template pair<kTokens>(t, j));
#pragma GCC unroll 2
        for (int v = 0; v < kStageVectors; ++v) sums[v][t] = pair_dot(sums[v][t], w[v], pair);
      }
    }
#pragma GCC unroll 2
    for (int v = 0; v < kStageVectors; ++v) {
      if constexpr (packed_layout(kType).minimum) add_minimums<2>(scales[v].m, x, total[v]);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const VF sum = hn::ConvertTo(F32(), sums[v][t]);
        total[v][t] = hn::MulAdd(sum, x.scaled(scales[v].d, t), total[v][t]);
      }
    }
  }
}

// to[t, row] = from[t, row], or 0 where there is no `from`, + the products of `chunks` staged
// chunks with kTokens tokens at x. `next`: the activations that are wanted after these.
template <DType kType, int kDigits, int kTokens>
HWY_NOINLINE void multiply_block_stage(
    const BlockStage<kType, kDigits>& stage,
    int chunks,
    TokensAt<kDigits> x,
    const TokenTile<kDigits>* next,
    StageSums from,
    StageSums to
) {
  const F32 d;
  VF total[kStageVectors][kTokens];
#pragma GCC unroll 2
  for (int v = 0; v < kStageVectors; ++v) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      total[v][t] =
          from.at == nullptr ? hn::Zero(d) : hn::LoadU(d, from.at + t * from.stride + v * kLanes);
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
      add_word_chunk<kType>(stage.words(c), scales, x, total);
    } else {
      const uint8_t* codes = stage.codes + c * kChunk * kStageRows;
      const auto staged = [codes](int v, int j) HWY_ATTR {
        return hn::Load(U8(), codes + (j * kStageVectors + v) * 4 * kLanes);
      };
      add_chunk<kType, kDigits>(staged, scales, x, total);
    }
  }
#pragma GCC unroll 2
  for (int v = 0; v < kStageVectors; ++v) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
      hn::StoreU(total[v][t], d, to.at + t * to.stride + v * kLanes);
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
