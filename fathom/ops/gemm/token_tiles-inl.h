// Tokens in tiles whose sizes are constants.
#if defined(FATHOM_OPS_GEMM_TOKEN_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_TOKEN_TILES_INL_H_
#undef FATHOM_OPS_GEMM_TOKEN_TILES_INL_H_
#else
#define FATHOM_OPS_GEMM_TOKEN_TILES_INL_H_
#endif

#include <cstdint>
#include <type_traits>

#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// Calls f(a tile's tokens as a constant, its first token) over [m, end) in the largest tiles that
// fit, of kMost tokens, then 8, 4, 3, 2, 1.
template <int kMost, class F>
HWY_INLINE void for_tiles(int64_t m, int64_t end, const F& f) {
  for (; m + kMost <= end; m += kMost) f(std::integral_constant<int, kMost>(), m);
  if constexpr (kMost > 8) {
    if (m + 8 <= end) {
      f(std::integral_constant<int, 8>(), m);
      m += 8;
    }
  }
  if constexpr (kMost > 4) {
    if (m + 4 <= end) {
      f(std::integral_constant<int, 4>(), m);
      m += 4;
    }
  }
  if constexpr (kMost > 3) {
    if (m + 3 <= end) {
      f(std::integral_constant<int, 3>(), m);
      m += 3;
    }
  }
  if constexpr (kMost > 2) {
    if (m + 2 <= end) {
      f(std::integral_constant<int, 2>(), m);
      m += 2;
    }
  }
  if (m < end) f(std::integral_constant<int, 1>(), m);
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
