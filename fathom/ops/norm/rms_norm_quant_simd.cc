// rms_norm_quant on vectors: the second pass over a row quantises it group by group.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/norm/rms_norm_quant_simd.cc"
// Nothing here gains from what VNNI levels add.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/norm/norm_row-inl.h"
#include "fathom/ops/norm/rms_norm_quant_rows.h"
#include "fathom/ops/simd/fp8-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

template <class T, class W>
void normalise_and_quantise(const RmsNormQuant& args, int64_t t) {
  const int64_t C = args.x.dim(1);
  const T* x = element<T>(args.x, t * args.x.stride(0));
  T* residual =
      args.residual.defined() ? element<T>(args.residual, t * args.residual.stride(0)) : nullptr;
  const W* weight = element<W>(args.weight, 0);
  const VF factor = hn::Set(F32(), add_and_measure(x, residual, args.eps, C));
  const T* source = residual == nullptr ? x : residual;
  auto* codes = element<uint8_t>(args.y, t * args.y.stride(0));
  float* scale = args.scale.as<float>() + t;
  alignas(64) float group[kFp8Block];
  for (int64_t c = 0; c < C; c += kFp8Block) {
    for (int64_t i = 0; i < kFp8Block; i += kLanes) {
      T rounded[kLanes];
      store_lanes(load_lanes(source + c + i) * factor * load_lanes(weight + c + i), rounded);
      hn::Store(load_lanes(rounded), F32(), group + i);
    }
    scale[c / kFp8Block * args.scale.stride(0)] =
        quantise_group(group, args.group_eps, args.ue8m0, codes + c);
  }
}

}  // namespace

void rms_norm_quant(Exec& exec, const RmsNormQuant& args) {
  with_element_type(args.x.dtype, [&](auto* x_type) {
    with_element_type(args.weight.dtype, [&](auto* weight_type) {
      using T = std::remove_pointer_t<decltype(x_type)>;
      using W = std::remove_pointer_t<decltype(weight_type)>;
      exec.parallel_for(args.x.dim(0), 4, [&](Range rows) {
        for (int64_t t = rows.begin; t < rows.end; ++t) normalise_and_quantise<T, W>(args, t);
      });
    });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
