// Rounding rows of activations to int8 digits, 32 at a time, for products with block-quantised
// weights.
#if defined(FATHOM_OPS_GEMM_QUANTISE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_QUANTISE_ROWS_INL_H_
#undef FATHOM_OPS_GEMM_QUANTISE_ROWS_INL_H_
#else
#define FATHOM_OPS_GEMM_QUANTISE_ROWS_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstring>

#include "fathom/core/tensor.h"
#include "fathom/ops/gemm/quantised_tile.h"
#include "fathom/ops/gemm/token_tiles-inl.h"
#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// Tokens of the largest tile: what the registers hold sums for beside two vectors of codes, or of
// words where digits are multiplied as such.
template <int kDigits>
inline constexpr int kTileTokens = kManyRegisters ? 8 / kDigits : 4;

// Whether the same k of tokens that are multiplied together lie together: [quad of a digit][token],
// or [pair of words][token]. A first-level cache that is cut into banks then serves two of their
// broadcasts at once. Elsewhere a token's digits lie together.
inline constexpr bool kTokensTogether = HWY_TARGET == HWY_AVX3_DL;

template <int kDigits>
using TokenTile = QuantisedTile<kDigits, kTileTokens<kDigits>>;

// How a format wants activations rounded.
struct QuantiseLayout {
  int offset;   // of the weights' codes
  bool halves;  // scales of 16 k
  bool words;   // two digits: the integers themselves
};

// What the integers of 32 activations are multiples of, in every lane.
struct QuantisedUnits {
  VF d, inverse;
  VF stored;  // QuantisedTile::unit
};

// Of the bits of their largest magnitude.
template <int kDigits>
HWY_INLINE QuantisedUnits quantised_units(VI amax_bits) {
  const F32 d;
  const I32 di;
  if constexpr (kDigits == 1) {
    const VF amax = hn::BitCast(d, amax_bits), most = hn::Set(d, 127.0f);
    const VF unit = amax / most;
    return {unit, hn::IfThenElseZero(amax > hn::Zero(d), most / amax), unit};
  } else {
    // The least power of two of which amax is 32512 = 0x1.fcp14 times or less, a normal number.
    constexpr int32_t kExponent = 0x7f800000, kOne = 1 << 23;
    const VI up = hn::And(amax_bits + hn::Set(di, 0x7fffff - 0x7e0000), hn::Set(di, kExponent));
    const VI bits = hn::Max(up, hn::Set(di, 15 * kOne)) - hn::Set(di, 14 * kOne);
    const VF inverse = hn::BitCast(d, hn::Set(di, 254 * kOne) - bits);
    // Infinite for NaN too.
    const auto infinite = up == hn::Set(di, kExponent);
    const VF unit = hn::BitCast(d, hn::IfThenElse(infinite, up, bits));
    return {unit, inverse, power_operand(unit)};
  }
}

// Writes 32 integers as digits: [k / 4][digit][4] where tokens lie together, else [digit][k].
template <int kDigits>
HWY_INLINE void store_digits(const VI* q, int8_t* to) {
  const I32 di;
#if HWY_TARGET == HWY_AVX3_DL
  if constexpr (kDigits == 2) {
    // With 128 added the second byte of an integer is its first digit, the first byte its second
    // digit and 128.
    alignas(64) static constexpr auto kBytes = [] {
      std::array<uint8_t, 64> bytes{};
      for (size_t i = 0; i < 64; ++i) {
        const size_t k = i / 8 * 4 + i % 4, digit = i / 4 % 2;
        bytes[i] = static_cast<uint8_t>(4 * k + 1 - digit);
      }
      return bytes;
    }();
    const VI half = hn::Set(di, 128);
    const __m512i bytes = _mm512_permutex2var_epi8(
        (q[0] + half).raw, _mm512_load_si512(kBytes.data()), (q[1] + half).raw
    );
    const __m512i flip = _mm512_maskz_set1_epi8(0xf0f0f0f0f0f0f0f0, -128);
    _mm512_storeu_si512(to, _mm512_xor_si512(bytes, flip));
    return;
  }
#endif
  const hn::Rebind<int8_t, F32> d8;
#pragma GCC unroll 8
  for (int i = 0; i < kChunk / kLanes; ++i) {
    VI first = q[i];
    if constexpr (kDigits == 2) {
      first = hn::ShiftRight<8>(q[i] + hn::Set(di, 128));
      hn::StoreU(hn::DemoteTo(d8, q[i] - hn::ShiftLeft<8>(first)), d8, to + kChunk + i * kLanes);
    }
    hn::StoreU(hn::DemoteTo(d8, first), d8, to + i * kLanes);
  }
}

// Writes 32 integers as words: what their digits stand for, also where they are out of range.
HWY_INLINE void store_words(const VI* q, int8_t* to) {
#pragma GCC unroll 8
  for (int i = 0; i < kChunk / kLanes; ++i) {
    const auto words = hn::TruncateTo(U16(), hn::BitCast(U32(), q[i]));
    hn::StoreU(words, U16(), reinterpret_cast<uint16_t*>(to) + i * kLanes);
  }
}

// to[i][t] = from[t][i], each of 4 bytes.
template <int kTokens, int kQuads>
HWY_INLINE void put_together(const int8_t* from, int8_t* to) {
#if HWY_TARGET == HWY_AVX3_DL
  constexpr int kVectors = kTokens * kQuads / 16;
  if constexpr (kTokens * kQuads % 16 == 0 && (kTokens & (kTokens - 1)) == 0 && kVectors % 2 == 0) {
    // Shuffled like two halves of cards, once per bit of a token's number.
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    __m512i v[kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) v[i] = _mm512_loadu_si512(from + 64 * i);
#pragma GCC unroll 4
    for (int n = 1; n < kTokens; n *= 2) {
      __m512i next[kVectors];
#pragma GCC unroll 4
      for (int i = 0; i < kVectors / 2; ++i) {
        next[2 * i] = _mm512_permutex2var_epi32(v[i], low, v[i + kVectors / 2]);
        next[2 * i + 1] = _mm512_permutex2var_epi32(v[i], high, v[i + kVectors / 2]);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; ++i) v[i] = next[i];
    }
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) _mm512_storeu_si512(to + 64 * i, v[i]);
    return;
  }
#endif
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < kQuads; ++i)
      std::memcpy(to + 4 * (i * kTokens + t), from + 4 * (t * kQuads + i), 4);
  }
}

// Rounds the 32 values at x, to nearest even, into token t of a tile, and their digits or words to
// `digits`. All of it zero when they are.
template <int kDigits>
HWY_INLINE void quantise_chunk(
    const VF* x, const QuantiseLayout& layout, TokenTile<kDigits>& tile, int t, int8_t* digits
) {
  constexpr int kVectors = kChunk / kLanes;
  const I32 di;
  // As integers magnitudes are in order, and NaN is the largest: what it meets is not finite.
  VI most = hn::BitCast(di, hn::Abs(x[0]));
#pragma GCC unroll 8
  for (int i = 1; i < kVectors; ++i) most = hn::Max(most, hn::BitCast(di, hn::Abs(x[i])));
  const QuantisedUnits units = quantised_units<kDigits>(hn::MaxOfLanes(di, most));
  VI q[kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) q[i] = hn::NearestInt(x[i] * units.inverse);
  tile.unit[t] = hn::GetLane(units.stored);
  if (kDigits == 2 && layout.words)
    store_words(q, digits);
  else
    store_digits<kDigits>(q, digits);
  if (layout.words && layout.halves) return;
  VI sums[2] = {q[0], q[kVectors / 2]};
#pragma GCC unroll 4
  for (int i = 1; i < kVectors / 2; ++i) {
    sums[0] = sums[0] + q[i];
    sums[1] = sums[1] + q[kVectors / 2 + i];
  }
  if (layout.halves) {
    for (int half = 0; half < 2; ++half)
      tile.start[half][t] = -layout.offset * hn::GetLane(hn::SumOfLanes(di, sums[half]));
    return;
  }
  const int32_t all = hn::GetLane(hn::SumOfLanes(di, sums[0] + sums[1]));
  tile.d_sum[t] = hn::GetLane(units.d) * static_cast<float>(all);
  tile.start[0][t] = -layout.offset * all;
}

// 32 values of row m of x from k on.
HWY_INLINE void load_chunk(const Tensor& x, int64_t m, int64_t k, VF* values) {
  constexpr int kVectors = kChunk / kLanes;
  const int64_t at = m * x.stride(0) + k;
  if (x.dtype == DType::f32) {
    const float* from = static_cast<const float*>(x.data) + at;
    for (int i = 0; i < kVectors; ++i) values[i] = hn::LoadU(F32(), from + i * kLanes);
  } else {
    const uint16_t* from = static_cast<const uint16_t*>(x.data) + at;
    for (int i = 0; i < kVectors; ++i) values[i] = load_bf16(from + i * kLanes);
  }
}

// Asks for these values.
HWY_INLINE void prefetch_chunk(const Tensor& x, int64_t m, int64_t k) {
  const int64_t bytes = x.dtype == DType::f32 ? 4 : 2;
  const char* from = static_cast<const char*>(x.data) + (m * x.stride(0) + k) * bytes;
  for (int64_t line = 0; line < kChunk * bytes; line += 64) prefetch_near(from + line);
}

#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
// Four vectors to one: lane t of each 16 bytes is what `op` makes of all lanes of v[t].
template <class Op>
HWY_INLINE VI fold_four(const VI* v, const Op& op) {
  const I32 di;
  const hn::Repartition<int64_t, I32> d64;
  const VI low = op(hn::InterleaveLower(di, v[0], v[1]), hn::InterleaveUpper(di, v[0], v[1]));
  const VI high = op(hn::InterleaveLower(di, v[2], v[3]), hn::InterleaveUpper(di, v[2], v[3]));
  const auto low64 = hn::BitCast(d64, low), high64 = hn::BitCast(d64, high);
  const VI each =
      op(hn::BitCast(di, hn::InterleaveLower(d64, low64, high64)),
         hn::BitCast(di, hn::InterleaveUpper(d64, low64, high64)));
  const VI all = op(each, hn::ReverseBlocks(di, each));
  return op(all, hn::SwapAdjacentBlocks(all));
}

// quantise_chunk of two digits for four tokens at once, a tile: what a chunk needs of its own, to
// find the largest of its values and the sum of its integers, they share.
HWY_INLINE void quantise_four(
    const VF (&x)[4][kChunk / kLanes], const QuantiseLayout& layout, TokenTile<2>& tile, int8_t* to
) {
  constexpr int kVectors = kChunk / kLanes;
  const I32 di;
  VI v[4];
#pragma GCC unroll 4
  for (int t = 0; t < 4; ++t) {
    v[t] = hn::BitCast(di, hn::Abs(x[t][0]));
#pragma GCC unroll 4
    for (int i = 1; i < kVectors; ++i) v[t] = hn::Max(v[t], hn::BitCast(di, hn::Abs(x[t][i])));
  }
  const auto most = fold_four(v, [](VI a, VI b) HWY_ATTR { return hn::Max(a, b); });
  const QuantisedUnits units = quantised_units<2>(most);
  const VF inverse[4] = {
      hn::Broadcast<0>(units.inverse),
      hn::Broadcast<1>(units.inverse),
      hn::Broadcast<2>(units.inverse),
      hn::Broadcast<3>(units.inverse)};
  _mm_storeu_ps(tile.unit, _mm512_castps512_ps128(units.stored.raw));
#pragma GCC unroll 4
  for (int t = 0; t < 4; ++t) {
    VI q[kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) q[i] = hn::NearestInt(x[t][i] * inverse[t]);
    if (layout.words)
      store_words(q, to + t * 2 * kChunk);
    else
      store_digits<2>(q, to + t * 2 * kChunk);
    v[t] = q[0];
#pragma GCC unroll 4
    for (int i = 1; i < kVectors; ++i) v[t] = v[t] + q[i];
  }
  if (layout.words && layout.halves) return;
  const VI sums = fold_four(v, [](VI a, VI b) HWY_ATTR { return a + b; });
  const VI start = hn::Set(di, -layout.offset) * sums;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(tile.start[0]), _mm512_castsi512_si128(start.raw));
  const VF d_sum = units.d * hn::ConvertTo(F32(), sums);
  _mm_storeu_ps(tile.d_sum, _mm512_castps512_ps128(d_sum.raw));
}
#endif

// kTokens rows of x from m on into a tile's tokens from `first` on.
template <int kDigits, int kTokens>
void quantise_tokens(
    const Tensor& x, int64_t m, const QuantiseLayout& layout, TokenTile<kDigits>* tile, int first
) {
  constexpr int64_t kAhead = 256;
  constexpr int kBytes = kDigits * kChunk;
  constexpr bool kFour = kLanes == 16 && kDigits == 2 && kTokens == 4;
  const bool four = kFour && (layout.words || !layout.halves);
  const int64_t K = x.dim(1);
  for (int64_t k = 0; k < K; k += kChunk, ++tile) {
    const bool row_ends = k + kAhead >= K;
    alignas(64) int8_t apart[kTokens * kBytes];
    int8_t* to = kTokensTogether ? apart : tile->q + first * kBytes;
    VF values[kTokens][kChunk / kLanes];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      prefetch_chunk(x, row_ends ? m + t + kTokens : m + t, row_ends ? k + kAhead - K : k + kAhead);
      load_chunk(x, m + t, k, values[t]);
      if (!four) quantise_chunk<kDigits>(values[t], layout, *tile, first + t, to + t * kBytes);
    }
    if constexpr (kFour) {
      if (four) quantise_four(values, layout, *tile, to);
    }
    if constexpr (kTokensTogether)
      put_together<kTokens, kBytes / 4>(apart, tile->q + first * kBytes);
  }
}

// Rows [from, end) of x, f32 or bf16 [M, K], K a multiple of 32, into their places among the tiles
// of all rows. `from` is at a tile, and so is `end` or it is M.
template <int kDigits>
void quantise_rows(
    const Tensor& x, int64_t from, int64_t end, const QuantiseLayout& layout, TokenTile<kDigits>* to
) {
  constexpr int kTile = kTileTokens<kDigits>;
  for_tiles<kTile>(from, end, [&](auto tokens, int64_t m) {
    quantise_tokens<kDigits, tokens()>(
        x, m, layout, to + tile_index(m, 0, x.dim(1), kTile), static_cast<int>(m % kTile)
    );
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
