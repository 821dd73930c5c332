// AVX2's step of FP8 products with two tokens (fp8_panel-inl.h), which take all its registers: four
// vectors of sums for each, and half as many for what they need. A sum that has to leave its
// register is waited for, so the products are assembly, which leaves the compiler no choice.
//
// A word has the codes k and k + 1 of a row, a lane the words of two neighbouring rows. The odd
// row's float is where its word is, the even row's is moved there: unpacking words instead would
// take one of the two ports that products need. So sums are of even and of odd rows, and put in
// order once a block.
#if defined(FATHOM_OPS_GEMM_FP8_TWO_TOKENS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_FP8_TWO_TOKENS_INL_H_
#undef FATHOM_OPS_GEMM_FP8_TWO_TOKENS_INL_H_
#else
#define FATHOM_OPS_GEMM_FP8_TWO_TOKENS_INL_H_
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

// Adds the products of two rows' words, which become the odd row's floats, with two tokens. Bits
// that a float has from a code: its sign, four of the exponent, three of the mantissa.
HWY_INLINE void add_fp8_rows(
    __m256i odd, __m256 x0, __m256 x1, VF (&even_sums)[2], VF (&odd_sums)[2]
) {
  const __m256i mask = _mm256_set1_epi32(static_cast<int>(0x87f00000));
  __m256i even;
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
        [even0] "+x"(even_sums[0].raw),
        [odd0] "+x"(odd_sums[0].raw),
        [even1] "+x"(even_sums[1].raw),
        [odd1] "+x"(odd_sums[1].raw)
      : [mask] "x"(mask), [x0] "x"(x0), [x1] "x"(x1)
  );
}

// sums[v][t] += the products of 4 k of kVectors of rows: of each two vectors the even rows', then
// the odd rows'.
template <int kVectors, class Panels>
HWY_INLINE void add_fp8_step_of_two(
    const Panels& w, int64_t at, const float* x, int64_t K, VF (&sums)[kVectors][2]
) {
  constexpr int kOrder[] = {1, 0, 3, 2};
  __m256i words[kVectors / 2];
#pragma GCC unroll 4
  for (const int k : kOrder) {
    asm volatile("" ::: "memory");  // nothing is loaded before it is wanted
    if (k % 2 == 1) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v += 2) words[v / 2] = fp8_words(w.vector(v) + at, k - 1);
    }
    const __m256 x0 = _mm256_broadcast_ss(x + k), x1 = _mm256_broadcast_ss(x + K + k);
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v += 2) {
      // 16 times a code, of the first by a product: shifts have fewer ports.
      const __m256i floats = k % 2 == 1 ? _mm256_srai_epi16(words[v / 2], 4)
                                        : _mm256_maddubs_epi16(_mm256_set1_epi16(16), words[v / 2]);
      add_fp8_rows(floats, x0, x1, sums[v], sums[v + 1]);
    }
  }
}

// Sums of even and of odd rows become those of consecutive rows.
template <int kVectors>
HWY_INLINE void order_fp8_rows(VF (&sums)[kVectors][2]) {
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    VF &even = sums[i / 2 * 2][i % 2], &odd = sums[i / 2 * 2 + 1][i % 2];
    const __m256 first = _mm256_unpacklo_ps(even.raw, odd.raw);
    odd.raw = _mm256_unpackhi_ps(even.raw, odd.raw);
    even.raw = first;
  }
}

#endif
}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
