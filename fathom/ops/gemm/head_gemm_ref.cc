#include <vector>

#include "fathom/ops/element.h"
#include "fathom/ops/gemm/bf16_gemm_rows.h"
#include "fathom/ops/gemm/head_gemm_rows.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/quant/fp8_blocks.h"

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

// A head's outputs n of all tokens, from codes.
void multiply_codes(const HeadGemm& args, int64_t h, int64_t n, std::vector<float>& weight) {
  const int64_t T = args.x.dim(0), K = args.x.dim(2), row = h * args.y.dim(2) + n;
  decode_row(args.weight, row, weight.data());
  for (int64_t t = 0; t < T; ++t) {
    const int64_t x = t * args.x.stride(0) + h * args.x.stride(1);
    double sum = 0;
    for (int64_t k = 0; k < K; ++k) {
      sum += static_cast<double>(load_element(args.x, x + k)) * weight[static_cast<size_t>(k)] *
             block_scale(args.weight_scale, row, k);
    }
    const int64_t y = t * args.y.stride(0) + h * args.y.stride(1) + n;
    store_element(args.y, y, static_cast<float>(sum));
  }
}

}  // namespace

void head_gemm_by_head(Exec& exec, const HeadGemm& args) {
  for (int64_t h = 0; h < args.x.dim(1); ++h) bf16_gemm(exec, product(args, h));
}

void head_gemm_ref(Exec& exec, const HeadGemm& args) {
  if (args.weight_scale.defined()) {
    std::vector<float> weight(static_cast<size_t>(args.x.dim(2)));
    for (int64_t i = 0; i < args.weight.dim(0); ++i)
      multiply_codes(args, i / args.y.dim(2), i % args.y.dim(2), weight);
    return;
  }
  for (int64_t h = 0; h < args.x.dim(1); ++h) bf16_gemm_ref(exec, product(args, h));
}

}  // namespace fathom::ops
