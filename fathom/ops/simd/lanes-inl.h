// What the CPU's vector rows share, compiled once per instruction level (Highway's inclusion
// scheme): lanes are output rows, L of them to a vector.
//
// Highway 1.0.3 has no dot product of bytes; dots() is one: VNNI by its instruction, other levels
// by pairs in 16 bits, all exact and therefore equal.
#if defined(FATHOM_OPS_SIMD_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_SIMD_LANES_INL_H_
#undef FATHOM_OPS_SIMD_LANES_INL_H_
#else
#define FATHOM_OPS_SIMD_LANES_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;
using I32 = hn::Rebind<int32_t, F32>;
using U32 = hn::Rebind<uint32_t, F32>;
using U16 = hn::Rebind<uint16_t, F32>;
using I16 = hn::Rebind<int16_t, F32>;
using U8 = hn::Repartition<uint8_t, F32>;
using F16 = hn::Rebind<hwy::float16_t, F32>;
using VF = hn::Vec<F32>;
using VI = hn::Vec<I32>;
using VU8 = hn::Vec<U8>;
using W16 = hn::Repartition<int16_t, F32>;
using VW = hn::Vec<W16>;

inline constexpr int kLanes = static_cast<int>(HWY_LANES(float) < 16 ? HWY_LANES(float) : 16);
// Vectors that 16 registers leave room for are fewer.
inline constexpr bool kManyRegisters = HWY_TARGET != HWY_AVX2;

// times_power(value, power_operand(d)) is value * d for d a power of two or infinite. Where an
// instruction adds exponents it runs beside products and dot products, which share their ports.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
HWY_INLINE VF power_operand(VF d) {
  const VI exponent = hn::ShiftRight<23>(hn::BitCast(I32(), d)) - hn::Set(I32(), 127);
  return hn::IfThenElse(d > hn::Set(F32(), 0x1p127f), d, hn::ConvertTo(F32(), exponent));
}
HWY_INLINE VF times_power(VF value, float operand) {
  return VF{_mm512_scalef_ps(value.raw, _mm512_set1_ps(operand))};
}
#else
HWY_INLINE VF power_operand(VF d) {
  return d;
}
HWY_INLINE VF times_power(VF value, float operand) {
  return value * hn::Set(F32(), operand);
}
#endif

// One vector of f16 bits as float, exact.
HWY_INLINE VF load_f16(const void* from) {
  return hn::PromoteTo(F32(), hn::LoadU(F16(), static_cast<const hwy::float16_t*>(from)));
}

// One vector of bf16 bits as float, exact.
HWY_INLINE VF load_bf16(const uint16_t* from) {
  const hn::Vec<U32> wide = hn::PromoteTo(U32(), hn::LoadU(U16(), from));
  return hn::BitCast(F32(), hn::ShiftLeft<16>(wide));
}

// Round to nearest even, NaN stays NaN: float_to_bf16 of core/dtype.h.
HWY_INLINE void store_bf16(VF value, uint16_t* to) {
  const U32 d;
  const auto bits = hn::BitCast(d, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1));
  const auto rounded = hn::ShiftRight<16>(bits + odd + hn::Set(d, 0x7fff));
  const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(d, 0x40));
  const auto is_nan = hn::RebindMask(d, hn::IsNaN(value));
  const auto chosen = hn::IfThenElse(is_nan, quiet, rounded);
  hn::StoreU(hn::DemoteTo(U16(), hn::BitCast(I32(), chosen)), U16(), to);
}

// L signed or unsigned bytes as float.
HWY_INLINE VF load_i8(const uint8_t* from) {
  const hn::Rebind<int8_t, F32> d;
  const auto bytes = hn::LoadU(d, reinterpret_cast<const int8_t*>(from));
  return hn::ConvertTo(F32(), hn::PromoteTo(I32(), bytes));
}
HWY_INLINE VF load_u8(const uint8_t* from) {
  const hn::Rebind<uint8_t, F32> d;
  return hn::ConvertTo(F32(), hn::PromoteTo(I32(), hn::LoadU(d, from)));
}
HWY_INLINE VI load_i8_as_i32(const uint8_t* from) {
  const hn::Rebind<int8_t, F32> d;
  return hn::PromoteTo(I32(), hn::LoadU(d, reinterpret_cast<const int8_t*>(from)));
}

// Into the first-level cache, into the second.
HWY_INLINE void prefetch_near(const void* address) {
  __builtin_prefetch(address, 0, 3);
}
HWY_INLINE void prefetch_far(const void* address) {
  __builtin_prefetch(address, 0, 2);
}

// Four consecutive bytes in every 32-bit lane.
HWY_INLINE VU8 broadcast_quad(const int8_t* x) {
  int32_t quad;
  std::memcpy(&quad, x, sizeof(quad));
  return hn::BitCast(U8(), hn::Set(I32(), quad));
}

// The first or the last two bytes of every 32-bit lane, as words.
HWY_INLINE VW first_words(VU8 bytes) {
  const U8 d;
  alignas(16) static constexpr uint8_t kFrom[] = {
      0, 128, 1, 128, 4, 128, 5, 128, 8, 128, 9, 128, 12, 128, 13, 128};
  return hn::BitCast(W16(), hn::TableLookupBytesOr0(bytes, hn::LoadDup128(d, kFrom)));
}
HWY_INLINE VW last_words(VU8 bytes) {
  const U8 d;
  alignas(16) static constexpr uint8_t kFrom[] = {
      2, 128, 3, 128, 6, 128, 7, 128, 10, 128, 11, 128, 14, 128, 15, 128};
  return hn::BitCast(W16(), hn::TableLookupBytesOr0(bytes, hn::LoadDup128(d, kFrom)));
}

// Two consecutive words in every 32-bit lane.
HWY_INLINE VW broadcast_pair(const int8_t* x) {
  int32_t pair;
  std::memcpy(&pair, x, sizeof(pair));
  return hn::BitCast(W16(), hn::Set(I32(), pair));
}

// The vector, in a register at this point. The compiler may add integers in any order, and then
// adds all products at the end, when they no longer fit into registers; and it may load an operand
// that several products share for each of them.
template <class V>
HWY_INLINE V in_register(V vector) {
#if HWY_ARCH_X86
  asm("" : "+v"(vector.raw));
#endif
  return vector;
}

// sum + two products of signed words, per 32-bit lane.
HWY_INLINE VI pair_dot(VI sum, VW w, VW x) {
#if HWY_TARGET == HWY_AVX3_DL
  asm("vpdpwssd %2, %1, %0" : "+v"(sum.raw) : "v"(w.raw), "v"(x.raw));
  return sum;
#elif HWY_TARGET == HWY_AVX3
  return in_register(sum + VI{_mm512_madd_epi16(w.raw, x.raw)});
#elif HWY_TARGET == HWY_AVX2
  return in_register(sum + VI{_mm256_madd_epi16(w.raw, x.raw)});
#else
  const int32x4_t low = vmull_s16(vget_low_s16(w.raw), vget_low_s16(x.raw));
  return sum + VI(vpaddq_s32(low, vmull_high_s16(w.raw, x.raw)));
#endif
}

// Whether the two digits of an activation are better multiplied as one word: where nothing adds
// products of bytes to sums of 32 bits, these take two products and two folds.
inline constexpr bool kWordDots = HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3;

// The upper four bits of each byte.
HWY_INLINE VU8 high_nibbles(VU8 bytes) {
#if HWY_TARGET == HWY_AVX3_DL
  // One product with a matrix of bits instead of a shift and a mask.
  const auto matrix = hn::Set(hn::Repartition<uint64_t, F32>(), 0x1020408000000000);
  asm("vgf2p8affineqb $0, %1, %0, %0" : "+v"(bytes.raw) : "v"(matrix.raw));
  return bytes;
#else
  const U8 d;
  return hn::And(hn::BitCast(d, hn::ShiftRight<4>(hn::BitCast(U32(), bytes))), hn::Set(d, 15));
#endif
}

#if HWY_TARGET == HWY_AVX3_DL

// sum + four products of unsigned bytes of w and signed bytes of x, per 32-bit lane.
HWY_INLINE VI quad_dot(VI sum, VU8 w, VU8 x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum.raw) : "v"(w.raw), "v"(x.raw));
  return sum;
}

template <int kMaxCode, int kDots, class Quads>
HWY_INLINE VI dots(VI sum, const VU8* w, const Quads& x) {
#pragma GCC unroll 8
  for (int j = 0; j < kDots; ++j) sum = quad_dot(sum, w[j], broadcast_quad(x(j)));
  return sum;
}

#else

// Sums in 16 bits that quads() folds to one 32-bit sum per lane. kMaxCode decides how many products
// may be added before they could overflow.
#if HWY_ARCH_X86
using V16 = hn::Vec<hn::Repartition<int16_t, F32> >;
struct Sums16 {
  V16 sums;
};
HWY_INLINE Sums16 zero_sums() {
  return {hn::Zero(hn::Repartition<int16_t, F32>())};
}
HWY_INLINE void add_products(Sums16& to, VU8 w, VU8 x) {
#if HWY_TARGET == HWY_AVX2
  to.sums = in_register(to.sums + V16{_mm256_maddubs_epi16(w.raw, x.raw)});
#else
  to.sums = in_register(to.sums + V16{_mm512_maddubs_epi16(w.raw, x.raw)});
#endif
}
HWY_INLINE VI quads(Sums16 from) {
  const auto ones = hn::Set(hn::Repartition<int16_t, F32>(), 1);
#if HWY_TARGET == HWY_AVX2
  return VI{_mm256_madd_epi16(from.sums.raw, ones.raw)};
#else
  return VI{_mm512_madd_epi16(from.sums.raw, ones.raw)};
#endif
}
#elif HWY_ARCH_ARM
struct Sums16 {
  int16x8_t low, high;
};
HWY_INLINE Sums16 zero_sums() {
  return {vdupq_n_s16(0), vdupq_n_s16(0)};
}
HWY_INLINE void add_products(Sums16& to, VU8 w, VU8 x) {
  const int8x16_t a = vreinterpretq_s8_u8(w.raw), b = vreinterpretq_s8_u8(x.raw);
  to.low = vmlal_s8(to.low, vget_low_s8(a), vget_low_s8(b));
  to.high = vmlal_high_s8(to.high, a, b);
}
HWY_INLINE VI quads(Sums16 from) {
  return VI(vpaddq_s32(vpaddlq_s16(from.low), vpaddlq_s16(from.high)));
}
#endif

template <int kMaxCode, int kDots, class Quads>
HWY_INLINE VI dots(VI sum, const VU8* w, const Quads& x) {
  if constexpr (kMaxCode > 127) {
    // Two halves of a byte: 16 bits hold neither 255 * 128 * 2 nor a signed code above 127.
    const VU8 mask = hn::Set(U8(), 15);
    Sums16 low = zero_sums(), high = zero_sums();
#pragma GCC unroll 8
    for (int j = 0; j < kDots; ++j) {
      const VU8 quad = broadcast_quad(x(j));
      const auto shifted = hn::ShiftRight<4>(hn::BitCast(hn::Repartition<uint16_t, F32>(), w[j]));
      add_products(low, hn::And(w[j], mask), quad);
      add_products(high, hn::And(hn::BitCast(U8(), shifted), mask), quad);
    }
    return sum + quads(low) + hn::ShiftLeft<4>(quads(high));
  } else {
    constexpr int kRun =
        32767 / (2 * 128 * kMaxCode) < kDots ? 32767 / (2 * 128 * kMaxCode) : kDots;
#pragma GCC unroll 8
    for (int first = 0; first < kDots; first += kRun) {
      Sums16 run = zero_sums();
#pragma GCC unroll 8
      for (int j = 0; j < kRun; ++j) {
        if (first + j < kDots) add_products(run, w[first + j], broadcast_quad(x(first + j)));
      }
      sum = sum + quads(run);
    }
    return sum;
  }
}

#endif

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
