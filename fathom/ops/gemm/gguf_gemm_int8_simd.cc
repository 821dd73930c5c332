// Products with block-quantised weights packed by 16 rows, with activations of one int8 digit
// (gguf_gemm.h). One source, compiled for AVX2, AVX-512, AVX-512 with VNNI, and NEON.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/gemm/gguf_gemm_int8_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/gemm/block_product-inl.h"
#include "fathom/ops/gemm/gguf_gemm_rows.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

void gguf_gemm_int8(Exec& exec, const GgufGemm& args) {
  block_product<1>(exec, args);
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
