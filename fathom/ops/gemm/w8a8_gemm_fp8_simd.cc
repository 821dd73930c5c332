// w8a8_gemm with FP8 weights packed by 32 rows: tokens are rounded to e4m3 with one scale each, and
// multiplied as fp8_block_gemm does with scales that all blocks of a row share. One source,
// compiled for AVX2, AVX-512, AVX-512 with VBMI and bf16 dot products, and NEON.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/gemm/w8a8_gemm_fp8_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include <bit>

#include "fathom/ops/gemm/fp8_product-inl.h"
#include "fathom/ops/gemm/w8a8_gemm_rows.h"
#include "fathom/ops/quant/fp8_rows.h"
#include "fathom/ops/simd/elements-inl.h"
#include "fathom/ops/simd/fp8-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr int64_t kValuesOfThread = 16384;  // fewer are rounded before another thread wakes

// K values at x, f32 or bf16, as codes; their scale.
template <class T>
float round_token_fp8(const T* x, int64_t K, uint8_t* codes) {
  const I32 di;
  // As integers magnitudes are in order, and NaN is the largest: the scale becomes NaN with it.
  VI most = hn::Zero(di);
  for (int64_t k = 0; k < K; k += kLanes)
    most = hn::Max(most, hn::BitCast(di, hn::Abs(load_lanes(x + k))));
  const Fp8RowScale row =
      Fp8RowScale::of(std::bit_cast<float>(hn::GetLane(hn::MaxOfLanes(di, most))));
  const VF scale = hn::Set(F32(), row.scale);
  for (int64_t k = 0; k < K; k += kLanes) store_f8e4m3(load_lanes(x + k) / scale, codes + k);
  return row.scale;
}

void round_tokens_fp8(Exec& exec, const Tensor& x, const Tensor& codes, float* scale) {
  const int64_t K = x.dim(1);
  const int64_t grain = std::max<int64_t>(1, kValuesOfThread / K);
  with_element_type(x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    exec.parallel_for(x.dim(0), grain, [&](Range tokens) {
      for (int64_t m = tokens.begin; m < tokens.end; ++m) {
        uint8_t* to = codes.as<uint8_t>() + m * K;
        scale[m] = round_token_fp8(element<T>(x, m * x.stride(0)), K, to);
      }
    });
  });
}

}  // namespace

void w8a8_gemm_fp8(Exec& exec, const W8a8Gemm& args) {
  const int64_t M = args.x.dim(0), K = args.x.dim(1);
  Workspace::Mark mark(*exec.workspace);
  const Tensor codes = exec.workspace->alloc(DType::f8e4m3, {M, K});
  const Tensor scale = exec.workspace->alloc(DType::f32, {M});
  const Tensor ones = exec.workspace->alloc(DType::f32, {K / kFp8Block});
  std::fill_n(ones.as<float>(), ones.elements(), 1.0f);
  round_tokens_fp8(exec, args.x, codes, scale.as<float>());
  const Fp8Panels panels{
      .codes = args.w.data.as<uint8_t>(), .scale = ones.as<float>(), .scale_stride = 0, .K = K};
  run_fp8_product(
      exec,
      {.w = panels,
       .rows = args.w.data.dim(0),
       .codes = codes,
       .x_scale = scale.as<float>(),
       .x_scale_stride = 0,
       .channel = args.w.scale,
       .bias = args.bias,
       .y = args.y}
  );
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
