// One row of rms_norm on vectors: the sum, and the factor that it gives.
#if defined(FATHOM_OPS_NORM_NORM_ROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_NORM_NORM_ROW_INL_H_
#undef FATHOM_OPS_NORM_NORM_ROW_INL_H_
#else
#define FATHOM_OPS_NORM_NORM_ROW_INL_H_
#endif

#include <cmath>

#include "fathom/ops/simd/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// 1 / sqrt(mean square + eps) of x + residual, which is written to residual; that may be null. The
// sum of squares goes by 32 lanes on every level.
template <class T>
HWY_INLINE float add_and_measure(const T* x, T* residual, float eps, int64_t C) {
  WideSum squares;
  for (int64_t c = 0; c < C; c += WideSum::kWide) {
#pragma GCC unroll 8
    for (int v = 0; v < WideSum::kVectors; ++v) {
      const int64_t i = c + v * kLanes, n = C - i;
      if (n <= 0) break;
      VF value = load_some(x + i, n);
      if (residual != nullptr) {
        store_some(value + load_some(residual + i, n), residual + i, n);
        value = load_some(residual + i, n);  // as rounded
      }
      squares.add_product(v, value, value);
    }
  }
  return 1.0f / std::sqrt(squares.total() / static_cast<float>(C) + eps);
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
