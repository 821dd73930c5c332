#include "fathom/ops/gemm/bf16_gemm_rows.h"
#include "fathom/ops/gemm/head_gemm_rows.h"

namespace fathom::ops {
namespace {

// Head h of [T, H, D] as [T, D].
Tensor head(const Tensor& x, int64_t h) {
  Tensor t = x.slice(1, h, 1);
  t.rank = 2;
  t.dims = {x.dim(0), x.dim(2)};
  t.strides = {x.stride(0), 1};
  return t;
}

Bf16Gemm product(const HeadGemm& args, int64_t h) {
  const int64_t N = args.y.dim(2);
  return {.x = head(args.x, h), .weight = args.weight.slice(0, h * N, N), .y = head(args.y, h)};
}

}  // namespace

void head_gemm_by_head(Exec& exec, const HeadGemm& args) {
  for (int64_t h = 0; h < args.x.dim(1); ++h) bf16_gemm(exec, product(args, h));
}

void head_gemm_ref(Exec& exec, const HeadGemm& args) {
  for (int64_t h = 0; h < args.x.dim(1); ++h) bf16_gemm_ref(exec, product(args, h));
}

}  // namespace fathom::ops
