// Turning a square of floats in registers.
#if defined(FATHOM_OPS_SIMD_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_SIMD_TRANSPOSE_INL_H_
#undef FATHOM_OPS_SIMD_TRANSPOSE_INL_H_
#else
#define FATHOM_OPS_SIMD_TRANSPOSE_INL_H_
#endif

#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// Turns each block of 4 lanes of four vectors: block b of v[c] becomes lane c of block b of the
// four.
HWY_INLINE void transpose_blocks_of_4(VF* v) {
  const F32 d;
  const hn::Repartition<uint64_t, F32> d64;
  const auto pair = [&](VF a) { return hn::BitCast(d64, a); };
  const auto low01 = pair(hn::InterleaveLower(d, v[0], v[1]));
  const auto low23 = pair(hn::InterleaveLower(d, v[2], v[3]));
  const auto high01 = pair(hn::InterleaveUpper(d, v[0], v[1]));
  const auto high23 = pair(hn::InterleaveUpper(d, v[2], v[3]));
  v[0] = hn::BitCast(d, hn::InterleaveLower(d64, low01, low23));
  v[1] = hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23));
  v[2] = hn::BitCast(d, hn::InterleaveLower(d64, high01, high23));
  v[3] = hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23));
}

// v[r] lane c becomes v[c] lane r, for the L x L square.
HWY_INLINE void transpose_square(VF* v) {
#pragma GCC unroll 4
  for (int r = 0; r < kLanes; r += 4) transpose_blocks_of_4(v + r);
    // Now block b of v[4 g + c] belongs to v[4 b + c], block g.
#if HWY_TARGET == HWY_AVX2
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m256 a = v[c].raw, b = v[c + 4].raw;
    v[c] = VF{_mm256_permute2f128_ps(a, b, 0x20)};
    v[c + 4] = VF{_mm256_permute2f128_ps(a, b, 0x31)};
  }
#elif HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 even01 = _mm512_shuffle_f32x4(v[c].raw, v[c + 4].raw, 0x88);
    const __m512 odd01 = _mm512_shuffle_f32x4(v[c].raw, v[c + 4].raw, 0xdd);
    const __m512 even23 = _mm512_shuffle_f32x4(v[c + 8].raw, v[c + 12].raw, 0x88);
    const __m512 odd23 = _mm512_shuffle_f32x4(v[c + 8].raw, v[c + 12].raw, 0xdd);
    v[c] = VF{_mm512_shuffle_f32x4(even01, even23, 0x88)};
    v[c + 4] = VF{_mm512_shuffle_f32x4(odd01, odd23, 0x88)};
    v[c + 8] = VF{_mm512_shuffle_f32x4(even01, even23, 0xdd)};
    v[c + 12] = VF{_mm512_shuffle_f32x4(odd01, odd23, 0xdd)};
  }
#endif
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
