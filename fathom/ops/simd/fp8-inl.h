// Rounding floats to e4m3, bit for bit as float_to_f8e4m3 of core/dtype.h.
#if defined(FATHOM_OPS_SIMD_FP8_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_SIMD_FP8_INL_H_
#undef FATHOM_OPS_SIMD_FP8_INL_H_
#else
#define FATHOM_OPS_SIMD_FP8_INL_H_
#endif

#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// L codes: nearest even, saturated at +-448, NaN stays NaN.
HWY_INLINE void store_f8e4m3(VF value, uint8_t* to) {
  const F32 d;
  const U32 du;
  const VF magnitude = hn::Abs(value);
  const auto bits = hn::BitCast(du, magnitude);
  const auto sign = hn::ShiftLeft<7>(hn::ShiftRight<31>(hn::BitCast(du, value)));
  const auto odd = hn::And(hn::ShiftRight<20>(bits), hn::Set(du, 1));
  const auto normal = hn::ShiftRight<20>(bits + odd + hn::Set(du, 0x7ffff)) - hn::Set(du, 120 << 3);
  // Steps of 2^-9 below 2^-6; what the conversion makes of others is not taken.
  const auto steps = hn::BitCast(du, hn::NearestInt(magnitude * hn::Set(d, 0x1p9f)));
  const auto is_small = hn::RebindMask(du, magnitude < hn::Set(d, 0x1p-6f));
  auto code = hn::IfThenElse(is_small, steps, normal);
  const auto is_large = hn::RebindMask(du, magnitude >= hn::Set(d, kFp8Max));
  code = hn::IfThenElse(is_large, hn::Set(du, 0x7e), code);
  code = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(value)), hn::Set(du, 0x7f), code);
  const auto bytes = hn::BitCast(I32(), hn::Or(code, sign));
  hn::StoreU(hn::DemoteTo(hn::Rebind<uint8_t, F32>(), bytes), hn::Rebind<uint8_t, F32>(), to);
}

// The scale of one group of kFp8Block values (fused_quant.h), and their codes. NaN has no part in
// the largest magnitude. kFp8Block is a multiple of the lanes of every level.
HWY_INLINE float quantise_group(const float* values, float eps, bool ue8m0, uint8_t* codes) {
  const F32 d;
  VF most = hn::Set(d, eps);
  for (int64_t i = 0; i < kFp8Block; i += kLanes) {
    const VF magnitude = hn::Abs(hn::Load(d, values + i));
    most = hn::IfThenElse(magnitude > most, magnitude, most);
  }
  const float scale = fp8_scale(hn::GetLane(hn::MaxOfLanes(d, most)), ue8m0);
  const VF divisor = hn::Set(d, scale);
  for (int64_t i = 0; i < kFp8Block; i += kLanes)
    store_f8e4m3(hn::Load(d, values + i) / divisor, codes + i);
  return scale;
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
