// exp(x) for softmax and SwiGLU: about 1e-7 relative for |x| < 87, the same bits on every level.
#if defined(FATHOM_OPS_SIMD_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_SIMD_EXP_INL_H_
#undef FATHOM_OPS_SIMD_EXP_INL_H_
#else
#define FATHOM_OPS_SIMD_EXP_INL_H_
#endif

#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// x is clamped to [-87, 88]: no zero, subnormal or infinity comes out. NaN stays NaN.
HWY_INLINE VF exponential(VF x) {
  const F32 d;
  const I32 di;
  const VF log2e = hn::Set(d, 0x1.715476p+0f), log2e_low = hn::Set(d, 0x1.4ae0cp-26f);
  // The bound stands first: x86 answers with the second operand when one is NaN.
  x = hn::Min(hn::Set(d, 88.0f), hn::Max(hn::Set(d, -87.0f), x));
  const VF n = hn::Round(x * log2e);
  const VF f = hn::MulAdd(x, log2e_low, hn::MulSub(x, log2e, n));
  // 2^f on [-1/2, 1/2]: its Taylor polynomial, 1.7e-7 off at most.
  VF p = hn::Set(d, 1.540353039e-4f);
  p = hn::MulAdd(p, f, hn::Set(d, 1.333355815e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.618129108e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.550410866e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.402265070e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.931471806e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::ConvertTo(di, n));
  return hn::BitCast(d, hn::BitCast(di, p) + exponent);
}

// x / (1 + exp(-x)).
HWY_INLINE VF silu(VF x) {
  return x / (hn::Set(F32(), 1.0f) + exponential(hn::Neg(x)));
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
