// fp8_block_gemm on vectors, weights packed by 32 rows (fp8_product-inl.h). One source, compiled
// for AVX2, AVX-512, AVX-512 with VBMI and bf16 dot products, and NEON.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/gemm/fp8_block_gemm_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/gemm/fp8_block_gemm_rows.h"
#include "fathom/ops/gemm/fp8_product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

void fp8_block_gemm(Exec& exec, const Fp8BlockGemm& args) {
  if (args.y.elements() == 0) return;
  const Fp8Panels panels{
      .codes = args.w.data.as<uint8_t>(),
      .scale = args.w.scale.as<float>(),
      .scale_stride = args.w.scale.stride(0),
      .K = args.x.dim(1),
  };
  run_fp8_product(
      exec,
      {.w = panels,
       .rows = args.w.data.dim(0),
       .codes = args.x,
       .x_scale = args.x_scale.as<float>(),
       .x_scale_stride = args.x_scale.stride(0),
       .channel = {},
       .bias = {},
       .y = args.y}
  );
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
