// rms_norm on vectors.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/norm/rms_norm_simd.cc"
// Nothing here gains from what VNNI levels add.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/norm/norm_row-inl.h"
#include "fathom/ops/norm/rms_norm_rows.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

// y = norm(x + residual) * weight for one row of C; residual may be null.
template <class T, class W>
void normalise(const T* x, T* residual, const W* weight, float eps, int64_t C, T* y) {
  const T* source = residual == nullptr ? x : residual;
  const VF scale = hn::Set(F32(), add_and_measure(x, residual, eps, C));
  for (int64_t c = 0; c < C; c += kLanes) {
    const VF value = load_some(source + c, C - c) * scale;
    store_some(value * load_some(weight + c, C - c), y + c, C - c);
  }
}

}  // namespace

void rms_norm(Exec& exec, const RmsNorm& args) {
  const int64_t C = args.x.dim(1);
  with_element_type(args.x.dtype, [&](auto* x_type) {
    with_element_type(args.weight.dtype, [&](auto* weight_type) {
      using T = std::remove_pointer_t<decltype(x_type)>;
      using W = std::remove_pointer_t<decltype(weight_type)>;
      const bool adds = args.residual.defined();
      exec.parallel_for(args.x.dim(0), 4, [&](Range rows) {
        for (int64_t t = rows.begin; t < rows.end; ++t) {
          normalise(
              element<T>(args.x, t * args.x.stride(0)),
              adds ? element<T>(args.residual, t * args.residual.stride(0)) : nullptr,
              element<W>(args.weight, 0),
              args.eps,
              C,
              element<T>(args.y, t * args.y.stride(0))
          );
        }
      });
    });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
