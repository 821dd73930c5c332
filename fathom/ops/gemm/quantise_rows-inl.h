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
#include <bit>

#include "fathom/core/tensor.h"
#include "fathom/ops/gemm/quantised_tile.h"
#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// Tokens of the largest tile: what the registers hold sums for beside two vectors of codes.
template <int kDigits>
inline constexpr int kTileTokens = (kManyRegisters ? 8 : 4) / kDigits;

template <int kDigits>
using TokenTile = QuantisedTile<kDigits, kTileTokens<kDigits>>;

// How a format wants activations rounded.
struct QuantiseLayout {
  int offset;   // of the weights' codes
  bool halves;  // scales of 16 k
  bool words;   // two digits: the integers themselves
};

// What the integers of 32 activations of this largest magnitude are multiples of.
struct QuantisedUnit {
  float d, inverse;
  float stored;  // QuantisedTile::unit
};

template <int kDigits>
HWY_INLINE QuantisedUnit quantised_unit(float amax) {
  if constexpr (kDigits == 1) {
    const float d = amax / 127.0f;
    return {d, amax > 0 ? 127.0f / amax : 0.0f, d};
  } else {
    // The least power of two of which amax is 32512 = 0x1.fcp14 times or less, a normal number.
    constexpr uint32_t kExponent = 0x7f800000, kOne = 1 << 23;
    const uint32_t up = (std::bit_cast<uint32_t>(amax) + 0x7fffff - 0x7e0000) & kExponent;
    const uint32_t bits = std::max(up, 15 * kOne) - 14 * kOne;
    const float inverse = std::bit_cast<float>(254 * kOne - bits);
    const float d = up == kExponent ? amax : std::bit_cast<float>(bits);
    return {d, inverse, power_operand(d)};
  }
}

// Writes 32 integers as digits.
template <int kDigits>
HWY_INLINE void store_digits(const VI* q, int8_t (&to)[kDigits][kChunk]) {
  const I32 di;
#if HWY_TARGET == HWY_AVX3_DL
  if constexpr (kDigits == 2) {
    // With 128 added the second byte of an integer is its first digit, the first byte its second
    // digit and 128.
    alignas(64) static constexpr auto kBytes = [] {
      std::array<uint8_t, 64> bytes{};
      for (size_t i = 0; i < 32; ++i) {
        bytes[i] = static_cast<uint8_t>(4 * i + 1);
        bytes[32 + i] = static_cast<uint8_t>(4 * i);
      }
      return bytes;
    }();
    const VI half = hn::Set(di, 128);
    const __m512i bytes = _mm512_permutex2var_epi8(
        (q[0] + half).raw, _mm512_load_si512(kBytes.data()), (q[1] + half).raw
    );
    const __m512i flip = _mm512_maskz_set1_epi8(0xffffffff00000000, -128);
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
      hn::StoreU(hn::DemoteTo(d8, q[i] - hn::ShiftLeft<8>(first)), d8, to[1] + i * kLanes);
    }
    hn::StoreU(hn::DemoteTo(d8, first), d8, to[0] + i * kLanes);
  }
}

// Writes 32 integers as words: what their digits stand for, also where they are out of range.
HWY_INLINE void store_words(const VI* q, void* to) {
#pragma GCC unroll 8
  for (int i = 0; i < kChunk / kLanes; ++i) {
    const auto words = hn::TruncateTo(U16(), hn::BitCast(U32(), q[i]));
    hn::StoreU(words, U16(), static_cast<uint16_t*>(to) + i * kLanes);
  }
}

// Rounds the 32 values at x, to nearest even, into token t of a tile. All of it zero when they are.
template <int kDigits>
HWY_INLINE void quantise_chunk(
    const VF* x, const QuantiseLayout& layout, TokenTile<kDigits>& tile, int t
) {
  constexpr int kVectors = kChunk / kLanes;
  const F32 d;
  const I32 di;
  VF most = hn::Abs(x[0]);
#pragma GCC unroll 8
  for (int i = 1; i < kVectors; ++i) most = hn::Max(most, hn::Abs(x[i]));
  const QuantisedUnit unit = quantised_unit<kDigits>(hn::GetLane(hn::MaxOfLanes(d, most)));
  VI q[kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) q[i] = hn::NearestInt(x[i] * hn::Set(d, unit.inverse));
  tile.unit[t] = unit.stored;
  if (kDigits == 2 && layout.words) return store_words(q, tile.q[t]);
  store_digits<kDigits>(q, tile.q[t]);
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
  tile.d_sum[t] = unit.d * static_cast<float>(all);
  tile.start[0][t] = -layout.offset * all;
}

// Rows [from, end) of x, f32 or bf16 [M, K], K a multiple of 32, into their places among the tiles
// of all rows.
template <int kDigits>
void quantise_rows(
    const Tensor& x, int64_t from, int64_t end, const QuantiseLayout& layout, TokenTile<kDigits>* to
) {
  constexpr int kVectors = kChunk / kLanes, kTile = kTileTokens<kDigits>;
  constexpr int64_t kAhead = 1024;  // elements asked for before they are needed, across rows
  const int64_t K = x.dim(1);
  for (int64_t m = from; m < end; ++m) {
    TokenTile<kDigits>* tile = to + tile_index(m, 0, K, kTile);
    for (int64_t k = 0; k < K; k += kChunk, ++tile) {
      VF values[kVectors];
      const int64_t at = m * x.stride(0) + k;
      if (x.dtype == DType::f32) {
        const float* source = static_cast<const float*>(x.data) + at;
        prefetch_near(source + kAhead);
        prefetch_near(source + kAhead + 16);
        for (int i = 0; i < kVectors; ++i) values[i] = hn::LoadU(F32(), source + i * kLanes);
      } else {
        const uint16_t* source = static_cast<const uint16_t*>(x.data) + at;
        prefetch_near(source + kAhead);
        for (int i = 0; i < kVectors; ++i) values[i] = load_bf16(source + i * kLanes);
      }
      quantise_chunk<kDigits>(values, layout, *tile, static_cast<int>(m % kTile));
    }
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
