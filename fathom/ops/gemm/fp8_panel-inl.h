// FP8 (e4m3) weights packed by 32 rows (pack_weight.h, f8e4m3x32) times FP8 activations: a block of
// 128 k of some rows against a tile of tokens.
//
// Both operands are exact in bf16, so are products in float; a block's sum is one FMA chain per
// output that starts from zero and takes k in the order 1, 0, 3, 2, 5, 4, ... of bf16 dot products,
// which levels without that instruction keep: all levels agree bit for bit.
#if defined(FATHOM_OPS_GEMM_FP8_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_FP8_PANEL_INL_H_
#undef FATHOM_OPS_GEMM_FP8_PANEL_INL_H_
#else
#define FATHOM_OPS_GEMM_FP8_PANEL_INL_H_
#endif

#include <algorithm>
#include <array>

#include "fathom/core/dtype.h"
#include "fathom/ops/gemm/fp8_even_tokens-inl.h"
#include "fathom/ops/gemm/packed_layout.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

inline constexpr int kFp8PanelStep = 128;                          // bytes of a panel for 4 k
inline constexpr int64_t kFp8PanelBlock = kFp8Block * kPanelRows;  // bytes of a panel's 128 k
inline constexpr int kFp8MostTokens = kManyRegisters ? 8 : 4;
// Few tokens meet four vectors of rows at once: many chains, to hide their latency.
inline constexpr int kFp8WideTokens = HWY_TARGET == HWY_AVX3_DL ? 4 : 2;
inline constexpr int kFp8Wide = 4;
inline constexpr int kFp8Narrow = 2;

#if HWY_TARGET == HWY_AVX3_DL

// Codes become bf16 by a table of 128 entries for each byte of the result; the sign goes round it.
struct Fp8Tables {
  alignas(64) std::array<uint8_t, 128> low{}, high{};
};
constexpr Fp8Tables make_fp8_tables() {
  Fp8Tables t;
  for (unsigned code = 0; code < 128; ++code) {
    const unsigned exponent = code >> 3, mantissa = code & 7;
    unsigned bits = (exponent + 120) << 7 | mantissa << 4;
    if (exponent == 0) {  // mantissa * 2^-9
      const unsigned top = mantissa >= 4 ? 2 : (mantissa >= 2 ? 1 : 0);
      bits = mantissa == 0 ? 0 : (118 + top) << 7 | (mantissa << (7 - top) & 127);
    }
    if (code == 127) bits = 0x7fc0;
    t.low[code] = static_cast<uint8_t>(bits);
    t.high[code] = static_cast<uint8_t>(bits >> 8);
  }
  return t;
}
inline constexpr Fp8Tables kFp8Tables = make_fp8_tables();

using Fp8Activation = uint16_t;  // bf16
constexpr float kFp8ActivationUnit = 1.0f;
constexpr float kFp8WeightUnit = 1.0f;

// 4 k of L rows as two vectors of bf16 pairs.
struct Fp8Decoder {
  VU8 low[2], high[2];
  using Step = hn::Vec<U32>[2];

  Fp8Decoder() {
    const U8 d;
    for (int i = 0; i < 2; ++i) {
      low[i] = hn::Load(d, kFp8Tables.low.data() + 64 * i);
      high[i] = hn::Load(d, kFp8Tables.high.data() + 64 * i);
    }
  }
  static HWY_INLINE VU8 look_up(VU8 codes, VU8 first, VU8 second) {
    asm("vpermi2b %2, %1, %0" : "+v"(codes.raw) : "v"(first.raw), "v"(second.raw));
    return codes;
  }
  HWY_INLINE void decode(const uint8_t* at, Step& out) const {
    const U8 d;
    const VU8 codes = in_register(hn::Load(d, at));  // copied for each use: loads are what runs out
    const VU8 sign = hn::And(codes, hn::Set(d, 0x80));
    const VU8 lows = look_up(codes, low[0], low[1]);
    const VU8 highs = hn::Or(look_up(codes, high[0], high[1]), sign);
    out[0] = hn::BitCast(U32(), hn::InterleaveLower(d, lows, highs));
    out[1] = hn::BitCast(U32(), hn::InterleaveUpper(d, lows, highs));
  }
};

// sums[v] += the products of 4 k with x.
template <int kVectors>
HWY_INLINE void add_fp8_products(
    const Fp8Decoder::Step* w, const Fp8Activation* x, VF* sums, int stride
) {
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    uint32_t pair;
    std::memcpy(&pair, x + 2 * i, sizeof(pair));
    const auto broadcast = hn::Set(U32(), pair);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      asm("vdpbf16ps %2, %1, %0"
          : "+v"(sums[v * stride].raw)
          : "v"(w[v][i].raw), "v"(broadcast.raw));
    }
  }
}

// sums[v][t] += the products of 4 k of kVectors of rows.
template <int kTokens, int kVectors, class Panels>
HWY_INLINE void add_fp8_step(
    const Fp8Decoder& decoder,
    const Panels& w,
    int64_t at,
    const Fp8Activation* x,
    int64_t K,
    VF (&sums)[kVectors][kTokens]
) {
  Fp8Decoder::Step step[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) decoder.decode(w.vector(v) + at, step[v]);
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t)
    add_fp8_products<kVectors>(step, x + t * K, &sums[0][t], kTokens);
}

// n codes, a multiple of 64.
HWY_INLINE void fp8_activations(const uint8_t* codes, int64_t n, Fp8Activation* to) {
  const Fp8Decoder decoder;
  const U8 d;
  const hn::Half<U8> half;
  const hn::Repartition<uint16_t, F32> d16;
  for (int64_t i = 0; i < n; i += 64) {
    const VU8 code = hn::LoadU(d, codes + i);
    const VU8 sign = hn::And(code, hn::Set(d, 0x80));
    const VU8 lows = Fp8Decoder::look_up(code, decoder.low[0], decoder.low[1]);
    const VU8 highs = hn::Or(Fp8Decoder::look_up(code, decoder.high[0], decoder.high[1]), sign);
    const auto join = [&](auto low, auto high) {
      return hn::Or(hn::PromoteTo(d16, low), hn::ShiftLeft<8>(hn::PromoteTo(d16, high)));
    };
    hn::StoreU(join(hn::LowerHalf(half, lows), hn::LowerHalf(half, highs)), d16, to + i);
    hn::StoreU(join(hn::UpperHalf(half, lows), hn::UpperHalf(half, highs)), d16, to + i + 32);
  }
}

#else

using Fp8Activation = float;
// Codes' bits, where a float has its sign, exponent and mantissa, stand for values 2^120 times too
// small; activations are made 2^60 times as large, so that no product is subnormal, and sums 2^60.
constexpr float kFp8ActivationUnit = 0x1p60f;
constexpr float kFp8WeightUnit = 0x1p60f;

// 4 k of L rows as floats. A weight's NaN codes count as 480.
struct Fp8Decoder {
  using D16 = hn::Repartition<uint16_t, F32>;
  using Step = VF[4];

  // Upper halves of floats, k = 0, 2 and k = 1, 3, in the order of the pack.
  struct Halves {
    hn::Vec<D16> even, odd;
    HWY_INLINE VF unit(int k) const {
      const D16 d;
      const auto words = k % 2 == 0 ? even : odd, zero = hn::Zero(d);
      return hn::BitCast(
          F32(), k < 2 ? hn::InterleaveLower(d, zero, words) : hn::InterleaveUpper(d, zero, words)
      );
    }
  };
  static HWY_INLINE Halves halves(const uint8_t* at) {
    const D16 d;
    const auto mask = hn::Set(d, 0x87f0);
    // 16 times a code, with its sign: where a float's upper half has its exponent and mantissa.
#if HWY_TARGET == HWY_AVX2
    // By products: what moves bits is what runs out.
    const VU8 codes = hn::Load(U8(), at);
    const auto times16 = [&](int unit) {
      return hn::Vec<D16>{
          _mm256_maddubs_epi16(_mm256_set1_epi16(static_cast<short>(unit)), codes.raw)};
    };
    return {hn::And(times16(16), mask), hn::And(times16(16 << 8), mask)};
#else
    const hn::Repartition<int16_t, F32> di;
    const auto codes = hn::BitCast(d, hn::Load(U8(), at));
    const auto upper = [&](auto word) {
      return hn::And(hn::BitCast(d, hn::ShiftRight<4>(hn::BitCast(di, word))), mask);
    };
    return {upper(hn::ShiftLeft<8>(codes)), upper(codes)};
#endif
  }
  HWY_INLINE void decode(const uint8_t* at, Step& out) const {
    const Halves both = halves(at);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) out[k] = both.unit(k);
  }
};

// sum += w * x. Where registers are few the sum stays in its own.
HWY_INLINE void add_fp8_product(VF w, VF x, VF& sum) {
#if HWY_TARGET == HWY_AVX2
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum.raw) : "x"(w.raw), "x"(x.raw));
#else
  sum = hn::MulAdd(w, x, sum);
#endif
}

// sums[v][t] += the products of 4 k of kVectors of rows, of several tokens two vectors at a time:
// sums of three tokens and what these need then stay in 16 registers.
template <int kTokens, int kVectors, class Panels>
HWY_INLINE void add_fp8_step(
    const Fp8Decoder& decoder,
    const Panels& w,
    int64_t at,
    const Fp8Activation* x,
    int64_t K,
    VF (&sums)[kVectors][kTokens]
) {
#if HWY_TARGET == HWY_AVX2
  if constexpr (kTokens % 2 == 0) return add_fp8_step_of_even<kTokens, kVectors>(w, at, x, K, sums);
#endif
  constexpr int kOrder[] = {1, 0, 3, 2};
  constexpr int kTogether = kTokens == 1 ? 1 : 2;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; v += kTogether) {
    Fp8Decoder::Halves codes[kTogether];
#pragma GCC unroll 2
    for (int i = 0; i < kTogether; ++i) codes[i] = decoder.halves(w.vector(v + i) + at);
#pragma GCC unroll 4
    for (const int k : kOrder) {
      VF unit[kTogether];
#pragma GCC unroll 2
      for (int i = 0; i < kTogether; ++i) unit[i] = codes[i].unit(k);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const VF broadcast = hn::Set(F32(), x[t * K + k]);
#pragma GCC unroll 2
        for (int i = 0; i < kTogether; ++i) add_fp8_product(unit[i], broadcast, sums[v + i][t]);
      }
    }
  }
}

// n codes.
HWY_INLINE void fp8_activations(const uint8_t* codes, int64_t n, Fp8Activation* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = f8e4m3_to_float(codes[i]) * kFp8ActivationUnit;
}

#endif

// One matrix as a tile sees it.
struct Fp8Panels {
  const uint8_t* codes = nullptr;  // f8e4m3x32 [Np, K]
  const float* scale = nullptr;    // [ceil(N/128), K/128]
  int64_t scale_stride = 0;
  int64_t K = 0;

  // Where row n has its first 4 k; those of the rows after it in its panel follow.
  HWY_INLINE const uint8_t* row_at(int64_t n) const {
    return codes + n / kPanelRows * (K * kPanelRows) + n % kPanelRows * 4;
  }
};

// The panels of a tile of kVectors of rows, one or two.
template <int kVectors>
struct Fp8TilePanels {
  static constexpr int kRows = kVectors * kLanes;
  static constexpr int kCount = kRows <= kPanelRows ? 1 : kRows / kPanelRows;
  const uint8_t* at[kCount];

  Fp8TilePanels(const uint8_t* first, int64_t panel_bytes) {
#pragma GCC unroll 2
    for (int p = 0; p < kCount; ++p) at[p] = first + p * panel_bytes;
  }
  // Where vector v is.
  HWY_INLINE const uint8_t* vector(int v) const {
    return at[v * kLanes / kPanelRows] + v * kLanes % kPanelRows * 4;
  }
};

// sums[v][t] = the products of a block of 128 k with x [kTokens, K]; `near` and `far` come into the
// first and the second level of the caches beside them.
template <int kTokens, int kVectors>
HWY_INLINE void multiply_fp8_block(
    const Fp8TilePanels<kVectors>& w,
    const Fp8TilePanels<kVectors>& near,
    const Fp8TilePanels<kVectors>& far,
    const Fp8Activation* x,
    int64_t K,
    VF (&sums)[kVectors][kTokens]
) {
  const Fp8Decoder decoder;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) sums[v][t] = hn::Zero(F32());
  }
  for (int64_t i = 0; i < kFp8PanelBlock; i += kFp8PanelStep, x += 4) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      if (v * kLanes * 4 % 64 != 0) continue;  // a line may have several vectors
      // Of several tokens the products hide the first level's misses, and loads are what runs out.
      if constexpr (kTokens == 1) prefetch_near(near.vector(v) + i);
      if constexpr (kTokens <= 4) prefetch_far(far.vector(v) + i);
    }
    add_fp8_step<kTokens, kVectors>(decoder, w, i, x, K, sums);
  }
#if HWY_TARGET == HWY_AVX2
  if constexpr (kTokens % 2 == 0) order_fp8_rows<kTokens, kVectors>(sums);
#endif
}

// tile[t * kVectors * L + i] = y[t, n + i] for rows [n, n + kVectors * L), n a multiple of that and
// the rows within one block of 128; x [kTokens, K], x_scale[b * x_scale_stride + t]. `next`: the
// codes of the tile that will be multiplied after this one, of the same size; they come into the
// caches beside this one's last blocks.
template <int kTokens, int kVectors>
HWY_NOINLINE void multiply_fp8(
    const Fp8Panels& w,
    int64_t n,
    const Fp8Activation* x,
    const float* x_scale,
    int64_t x_scale_stride,
    const uint8_t* next,
    float* tile
) {
  constexpr int64_t kNear = 1, kFar = 2;  // blocks ahead
  const F32 d;
  const uint8_t* first = w.row_at(n);
  const int64_t blocks = w.K / kFp8Block;
  const auto panels_at = [&](int64_t b) {
    const uint8_t* at = b < blocks ? first + b * kFp8PanelBlock
                                   : next + std::min(b - blocks, blocks - 1) * kFp8PanelBlock;
    return Fp8TilePanels<kVectors>(at, w.K * kPanelRows);
  };
  const float* w_scale = w.scale + n / kFp8Block * w.scale_stride;
  for (int64_t b = 0; b < blocks; ++b) {
    VF sums[kVectors][kTokens];
    multiply_fp8_block<kTokens, kVectors>(
        panels_at(b), panels_at(b + kNear), panels_at(b + kFar), x + b * kFp8Block, w.K, sums
    );
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const float scale = w_scale[b] * x_scale[b * x_scale_stride + t] * kFp8WeightUnit;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        float* to = tile + (t * kVectors + v) * kLanes;
        const VF before = b == 0 ? hn::Zero(d) : hn::Load(d, to);
        hn::Store(hn::MulAdd(sums[v][t], hn::Set(d, scale), before), d, to);
      }
    }
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
