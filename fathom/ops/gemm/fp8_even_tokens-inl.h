// AVX2's step of FP8 products (fp8_panel-inl.h) with two tokens and four vectors of rows, or four
// tokens and two. Eight sums and what they need take all registers, and a sum that has to leave its
// own is waited for: so the products are assembly, which leaves the compiler no choice.
//
// A word has the codes k and k + 1 of a row, a lane the words of two neighbouring rows. The odd
// row's float is where its word is, the even row's is moved there: unpacking words instead would
// take one of the two ports that products need. So sums are of even and of odd rows, and put in
// order once a block.
#if defined(FATHOM_OPS_GEMM_FP8_EVEN_TOKENS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_FP8_EVEN_TOKENS_INL_H_
#undef FATHOM_OPS_GEMM_FP8_EVEN_TOKENS_INL_H_
#else
#define FATHOM_OPS_GEMM_FP8_EVEN_TOKENS_INL_H_
#endif

#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
#if HWY_TARGET == HWY_AVX2

// Codes k and k + 1, k even, of 16 rows of a panel.
HWY_INLINE __m256i fp8_words(const uint8_t* at, int k) {
  const auto load = [&](int byte) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + byte));
  };
  return k < 2 ? _mm256_blend_epi32(load(0), load(24), 0xcc)
               : _mm256_blend_epi32(load(8), load(32), 0xcc);
}

// Two rows' sums of a token.
struct Fp8RowSums {
  VF &even, &odd;
};

// The odd row's words, 16 times a code, become its floats, `even` the other row's, and meet two
// tokens. Bits that a float has from a code: its sign, four of the exponent, three of the mantissa.
HWY_INLINE void split_fp8_rows(
    __m256i& odd, __m256i& even, __m256 x0, Fp8RowSums sums0, __m256 x1, Fp8RowSums sums1
) {
  const __m256i mask = _mm256_set1_epi32(static_cast<int>(0x87f00000));
  asm volatile(
      "vpslld $16, %[odd], %[even]\n"
      "vpand %[mask], %[odd], %[odd]\n"
      "vpand %[mask], %[even], %[even]\n"
      "vfmadd231ps %[x0], %[even], %[even0]\n"
      "vfmadd231ps %[x0], %[odd], %[odd0]\n"
      "vfmadd231ps %[x1], %[even], %[even1]\n"
      "vfmadd231ps %[x1], %[odd], %[odd1]"
      : [odd] "+x"(odd),
        [even] "=&x"(even),
        [even0] "+x"(sums0.even.raw),
        [odd0] "+x"(sums0.odd.raw),
        [even1] "+x"(sums1.even.raw),
        [odd1] "+x"(sums1.odd.raw)
      : [mask] "x"(mask), [x0] "x"(x0), [x1] "x"(x1)
  );
}
// A further token.
HWY_INLINE void add_fp8_rows(__m256i even, __m256i odd, __m256 x, Fp8RowSums sums) {
  asm volatile(
      "vfmadd231ps %[x], %[even], %[even_sum]\n"
      "vfmadd231ps %[x], %[odd], %[odd_sum]"
      : [even_sum] "+x"(sums.even.raw), [odd_sum] "+x"(sums.odd.raw)
      : [x] "x"(x), [even] "x"(even), [odd] "x"(odd)
  );
}

// sums[v][t] += the products of 4 k of kVectors of rows: of each two vectors the even rows', then
// the odd rows'.
template <int kTokens, int kVectors, class Panels>
HWY_INLINE void add_fp8_step_of_even(
    const Panels& w, int64_t at, const float* x, int64_t K, VF (&sums)[kVectors][kTokens]
) {
  constexpr int kOrder[] = {1, 0, 3, 2};
  const auto factor = [&](int k, int t) { return _mm256_broadcast_ss(x + t * K + k); };
  const auto load_later = [] { asm volatile("" ::: "memory"); };
  __m256i words[kVectors / 2];
#pragma GCC unroll 4
  for (const int k : kOrder) {
    load_later();
    if (k % 2 == 1) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v += 2) words[v / 2] = fp8_words(w.vector(v) + at, k - 1);
    }
    const __m256 x0 = factor(k, 0), x1 = factor(k, 1);
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v += 2) {
      // Of the first code by a product: shifts have fewer ports.
      __m256i odd = k % 2 == 1 ? _mm256_srai_epi16(words[v / 2], 4)
                               : _mm256_maddubs_epi16(_mm256_set1_epi16(16), words[v / 2]);
      __m256i even;
      const auto of = [&](int t) { return Fp8RowSums{sums[v][t], sums[v + 1][t]}; };
      split_fp8_rows(odd, even, x0, of(0), x1, of(1));
#pragma GCC unroll 2
      for (int t = 2; t < kTokens; ++t) {
        load_later();
        add_fp8_rows(even, odd, factor(k, t), of(t));
      }
    }
  }
}

// Sums of even and of odd rows become those of consecutive rows.
template <int kTokens, int kVectors>
HWY_INLINE void order_fp8_rows(VF (&sums)[kVectors][kTokens]) {
#pragma GCC unroll 4
  for (int i = 0; i < kVectors / 2 * kTokens; ++i) {
    VF &even = sums[i / kTokens * 2][i % kTokens], &odd = sums[i / kTokens * 2 + 1][i % kTokens];
    const __m256 first = _mm256_unpacklo_ps(even.raw, odd.raw);
    odd.raw = _mm256_unpackhi_ps(even.raw, odd.raw);
    even.raw = first;
  }
}

#endif
}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
