// The multiply of block-quantised products: some rows of packed weights, L to a vector, against a
// tile of tokens whose activations are int8 digits. Integer dots of 32 k are exact; blocks are
// added in ascending k with one float FMA chain per output.
#if defined(FATHOM_OPS_GEMM_BLOCK_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_BLOCK_TILE_INL_H_
#undef FATHOM_OPS_GEMM_BLOCK_TILE_INL_H_
#else
#define FATHOM_OPS_GEMM_BLOCK_TILE_INL_H_
#endif

#include "fathom/ops/gemm/packed_layout.h"
#include "fathom/ops/gemm/quantise_rows-inl.h"
#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

inline constexpr int kParts = kGroupRows / kLanes;  // vectors that hold a group's rows

// Tokens of a tile that lie together, from `first` on, as a product of kTokens tokens reads them.
template <int kDigits>
struct TokensAt {
  const TokenTile<kDigits>* tile;
  int first;

  const int8_t* bytes() const { return tile->q + first * kDigits * kChunk; }
  // A digit of k = 4j .. 4j+3 of token t.
  template <int kTokens>
  const int8_t* quad(int t, int digit, int j) const {
    if constexpr (kTokensTogether) return bytes() + 4 * ((j * kDigits + digit) * kTokens + t);
    return bytes() + (t * kDigits + digit) * kChunk + 4 * j;
  }
  // The words of k = 2i and 2i+1 of token t.
  template <int kTokens>
  const int8_t* pair(int t, int i) const {
    return bytes() + 4 * (kTokensTogether ? i * kTokens + t : t * kChunk / 2 + i);
  }
  VF d_sum(int t) const { return hn::Set(F32(), tile->d_sum[first + t]); }
  VI start(int t, int half = 0) const { return hn::Set(I32(), tile->start[half][first + t]); }
  // `scales` times the token's d.
  VF scaled(VF scales, int t) const {
    const float unit = tile->unit[first + t];
    return kDigits == 2 ? times_power(scales, unit) : scales * hn::Set(F32(), unit);
  }
};

constexpr int max_code(PackedLayout layout) {
  return layout.high_bits == 4 ? 255 : (16 << layout.high_bits) - 1;
}

// Rows of one vector: a group and which L of its 16 rows.
struct RowsAt {
  const uint8_t* group;
  int part;
};

// Codes of k = 4j .. 4j+3 of each row; `codes` is the chunk's first plane, at the vector's rows.
template <DType kType>
HWY_INLINE VU8 code_vector(const uint8_t* codes, int j) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  const U8 d;
  const U32 d32;
  if constexpr (kLayout.high_bits == 4) {
    return hn::Load(d, codes + 64 * j);
  } else {
    VU8 plane = hn::Load(d, codes + 64 * (j % 4));
    plane = j >= 4 ? high_nibbles(plane) : hn::And(plane, hn::Set(d, 15));
    if constexpr (kLayout.high_bits > 0) {
      // Bit 4 of each code (one plane of bits) or bits 4 and 5 (two planes of pairs).
      constexpr int kBits = kLayout.high_bits, kPerPlane = 8 / kBits;
      const auto high = hn::BitCast(d32, hn::Load(d, codes + 256 + 64 * (j / kPerPlane)));
      const int at = j % kPerPlane * kBits;
      const auto moved =
          at <= 4 ? hn::ShiftLeftSame(high, 4 - at) : hn::ShiftRightSame(high, at - 4);
      constexpr uint8_t kMask = ((1 << kBits) - 1) << 4;
      plane = hn::OrAnd(plane, hn::BitCast(d, moved), hn::Set(d, kMask));
    }
    return plane;
  }
}

// What a chunk multiplies its integer sum and the activations' sum by.
struct ChunkScales {
  VF d, m;
};

// Scales of the block of k; for formats with integer scales, without them.
template <DType kType>
HWY_INLINE ChunkScales block_scales(const RowsAt& rows, int64_t K, int64_t k) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  const int at = 2 * kLanes * rows.part;
  ChunkScales scales{load_f16(rows.group + kLayout.d(K, k) + at), hn::Zero(F32())};
  if constexpr (kLayout.minimum) scales.m = load_f16(rows.group + kLayout.m(K, k) + at);
  return scales;
}

template <DType kType>
HWY_INLINE ChunkScales chunk_scales(ChunkScales scales, const RowsAt& rows, int64_t k) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  if constexpr (kLayout.scales == 8) {
    const int i = static_cast<int>(k % kLayout.block / kChunk), at = kLanes * rows.part;
    scales.d = scales.d * load_u8(rows.group + kLayout.scale(k, i) + at);
    scales.m = scales.m * load_u8(rows.group + kLayout.minimum_scale(k, i) + at);
  }
  return scales;
}

// A tile's integer sums.
template <int kDigits, int kTokens, int kVectors>
struct Dots {
  VI sum[kVectors][kTokens][kDigits];

  // Sums from zero, or, `offset`, from what the codes' offset takes off a chunk of x.
  template <bool kOffset>
  HWY_INLINE void begin(const TokensAt<kDigits>& x) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
        for (int digit = 0; digit < kDigits; ++digit) sum[v][t][digit] = hn::Zero(I32());
        if constexpr (kOffset) sum[v][t][kDigits - 1] = x.start(t);
      }
    }
  }
  // Sums from a number of each token.
  HWY_INLINE void begin_at(const int32_t* start) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) sum[v][t][0] = hn::Set(I32(), start[t]);
    }
  }
  // Adds the products of 16 k, the first or the last of a chunk; codes(v, j) are those of vector v
  // at k = 4j .. 4j+3. x.quad<kTokens>(t, digit, j): activations of token t there.
  template <DType kType, class Codes, class Tokens>
  HWY_INLINE void add_half(const Codes& codes, int half, const Tokens& x) {
#if HWY_TARGET == HWY_AVX3_DL
    // A broadcast of activations serves all vectors, a vector of codes all tokens.
#pragma GCC unroll 4
    for (int j = 4 * half; j < 4 * half + 4; ++j) {
      VU8 w[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) w[v] = codes(v, j);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
        for (int digit = 0; digit < kDigits; ++digit) {
          const VU8 quad = broadcast_quad(x.template quad<kTokens>(t, digit, j));
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v)
            sum[v][t][digit] = quad_dot(sum[v][t][digit], w[v], quad);
        }
      }
    }
#else
    constexpr int kMax = max_code(packed_layout(kType));
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      VU8 w[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) w[j] = codes(v, 4 * half + j);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
        for (int digit = 0; digit < kDigits; ++digit) {
          const auto quad = [&](int j) HWY_ATTR {
            return x.template quad<kTokens>(t, digit, 4 * half + j);
          };
          sum[v][t][digit] = dots<kMax, 4>(sum[v][t][digit], w, quad);
        }
      }
    }
#endif
  }
  // Adds a chunk's products of vector v to each token's sum.
  HWY_INLINE void add_to(int v, VF scales, const TokensAt<kDigits>& x, VF (&to)[kTokens]) const {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
      to[t] = hn::MulAdd(hn::ConvertTo(F32(), joined(v, t)), x.scaled(scales, t), to[t]);
  }
  // 256 times the first digit's sum plus the second's.
  HWY_INLINE VI joined(int v, int t) const {
    if constexpr (kDigits == 1)
      return sum[v][t][0];
    else
      return hn::ShiftLeft<8>(sum[v][t][0]) + sum[v][t][1];
  }
};

// One chunk of formats with 16 signed scales per block: each half has its own.
template <DType kType, int kDigits, class Codes, int kTokens, int kVectors>
HWY_INLINE void add_scaled_halves(
    const RowsAt* rows,
    const Codes& codes,
    int64_t k,
    const ChunkScales* scales,
    const TokensAt<kDigits>& x,
    VF (&sums)[kVectors][kTokens]
) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  const int i = static_cast<int>(k % kLayout.block / 16);
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    Dots<kDigits, kTokens, kVectors> dots;
    dots.template begin<false>(x);
    dots.template add_half<kType>(codes, half, x);
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const VI scale =
          load_i8_as_i32(rows[v].group + kLayout.scale(k, i + half) + kLanes * rows[v].part);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const VI sum = (dots.joined(v, t) + x.start(t, half)) * scale;
        sums[v][t] = hn::MulAdd(hn::ConvertTo(F32(), sum), x.scaled(scales[v].d, t), sums[v][t]);
      }
    }
  }
}

// Adds what the block's minimums give a chunk of kTokens tokens.
template <int kDigits, int kTokens>
HWY_INLINE void add_minimums(VF m, const TokensAt<kDigits>& x, VF (&sums)[kTokens]) {
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    sums[t] = hn::MulAdd(m, x.d_sum(t), sums[t]);
#if HWY_TARGET == HWY_AVX3_DL
    // Stays ahead of the dots, which it has no reason to wait for.
    asm("" : "+v"(sums[t].raw));
#endif
  }
}

// One chunk: 32 k of kVectors x L rows, kTokens tokens, added to `sums`. codes(v, j) are those of
// vector v at k = 4j .. 4j+3.
template <DType kType, int kDigits, int kTokens, int kVectors, class Codes>
HWY_INLINE void add_chunk(
    const Codes& codes,
    const ChunkScales* scales,
    const TokensAt<kDigits>& x,
    VF (&sums)[kVectors][kTokens]
) {
  constexpr bool kMinimum = packed_layout(kType).minimum;
  if constexpr (kMinimum) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) add_minimums<kDigits>(scales[v].m, x, sums[v]);
  }
  Dots<kDigits, kTokens, kVectors> dots;
  dots.template begin<!kMinimum>(x);
  dots.template add_half<kType>(codes, 0, x);
  dots.template add_half<kType>(codes, 1, x);
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) dots.add_to(v, scales[v].d, x, sums[v]);
}

// The same with codes and scales as they are packed, `block` those of k's block.
template <DType kType, int kDigits, int kTokens, int kVectors>
HWY_INLINE void add_packed_chunk(
    const RowsAt* rows,
    int64_t k,
    const ChunkScales* block,
    const TokensAt<kDigits>& x,
    VF (&sums)[kVectors][kTokens]
) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  const uint8_t* codes[kVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v)
    codes[v] = rows[v].group + kLayout.codes(k) + 4 * kLanes * rows[v].part;
  const auto unpacked = [&codes](int v, int j) HWY_ATTR { return code_vector<kType>(codes[v], j); };
  if constexpr (kLayout.scales == 16) {
    add_scaled_halves<kType, kDigits>(rows, unpacked, k, block, x, sums);
  } else {
    ChunkScales scales[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) scales[v] = chunk_scales<kType>(block[v], rows[v], k);
    add_chunk<kType, kDigits>(unpacked, scales, x, sums);
  }
}

// Asks for the lines of a stream of weights that lie `kAhead` bytes behind those of k, into the
// first-level cache (kNear) or the second. `groups` are read side by side, the next ones follow all
// of them.
template <DType kType, int64_t kAhead, bool kNear>
HWY_INLINE void prefetch_codes(const uint8_t* group, int64_t K, int64_t k, int groups) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  // What a chunk takes of the stream, with its part of what stands before a block's codes.
  constexpr int kBytes =
      kLayout.apart ? kLayout.code_bytes : kLayout.block_stride() * kChunk / kLayout.block;
  const int64_t at = k / kChunk * kBytes + kAhead, group_bytes = kLayout.group_bytes(K);
  const int64_t end = kLayout.apart ? kLayout.d(K, 0) : group_bytes;
  const uint8_t* line = group + at + (at < end ? 0 : groups * group_bytes - end);
#pragma GCC unroll 9
  for (int i = 0; i < kBytes; i += 64) kNear ? prefetch_near(line + i) : prefetch_far(line + i);
}

// Scales that stand behind a group's codes are wanted with the first of them.
template <DType kType>
HWY_INLINE void prefetch_scales(const uint8_t* group, int64_t K, int64_t k, int groups) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  if constexpr (kLayout.apart) {
    const uint8_t* d = group + kLayout.d(K, k);
    prefetch_near(d + 256);
    prefetch_far(d + groups * kLayout.group_bytes(K));
  }
}

// Weights that stream by: from memory into the first-level cache at once.
template <DType kType>
HWY_INLINE void prefetch_stream(const uint8_t* group, int64_t K, int64_t k, int groups) {
  prefetch_codes<kType, 4096, true>(group, K, k, groups);
  prefetch_scales<kType>(group, K, k, groups);
}

// tile[t * kVectors * L + i]: rows of kVectors vectors times kTokens tokens whose chunks begin at
// x. `streams`: the weights come from memory now.
template <DType kType, int kDigits, int kTokens, int kVectors>
HWY_NOINLINE void multiply_block_tile(
    const RowsAt* rows, int64_t K, TokensAt<kDigits> x, bool streams, float* tile
) {
  constexpr PackedLayout kLayout = packed_layout(kType);
  constexpr int kGroups = kVectors > kParts ? kVectors / kParts : 1;
  VF sums[kVectors][kTokens];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) sums[v][t] = hn::Zero(F32());
  }
  for (int64_t block = 0; block < K; block += kLayout.block) {
    ChunkScales scales[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) scales[v] = block_scales<kType>(rows[v], K, block);
    for (int64_t k = block; k < block + kLayout.block; k += kChunk) {
      if (streams) {
        for (int v = 0; v < kVectors; ++v)
          if (rows[v].part == 0) prefetch_stream<kType>(rows[v].group, K, k, kGroups);
      }
      add_packed_chunk<kType, kDigits>(rows, k, scales, x, sums);
      ++x.tile;
    }
  }
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
      hn::Store(sums[v][t], F32(), tile + (t * kVectors + v) * kLanes);
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
