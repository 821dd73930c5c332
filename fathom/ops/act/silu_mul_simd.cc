// silu_mul on vectors.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/act/silu_mul_simd.cc"
// Nothing here gains from what VNNI levels add.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/act/silu_mul_rows.h"
#include "fathom/ops/simd/elements-inl.h"
#include "fathom/ops/simd/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

void silu_mul(Exec& exec, const SiluMul& args) {
  const int64_t I = args.y.dim(1);
  with_element_type(args.y.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    exec.parallel_for(args.y.dim(0), 4, [&](Range rows) {
      for (int64_t t = rows.begin; t < rows.end; ++t) {
        const T* gate = element<T>(args.gate, t * args.gate.stride(0));
        const T* up = element<T>(args.up, t * args.up.stride(0));
        T* y = element<T>(args.y, t * args.y.stride(0));
        for (int64_t i = 0; i < I; i += kLanes) {
          const VF g = load_some(gate + i, I - i);
          store_some(silu(g) * load_some(up + i, I - i), y + i, I - i);
        }
      }
    });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
