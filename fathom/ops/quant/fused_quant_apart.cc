#include "fathom/ops/act/silu_mul.h"
#include "fathom/ops/element.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/quant/fused_quant_rows.h"

namespace fathom::ops {
namespace {

// SwiGLU of x as f32 rows in the workspace, as silu_mul makes it.
Tensor prologue(Exec& exec, const FusedQuant& args) {
  const int64_t T = args.y.dim(0), K = args.y.dim(1);
  Tensor x = args.x;
  if (x.dtype != DType::f32) {
    x = exec.workspace->alloc(DType::f32, {T, 2 * K});
    for (int64_t t = 0; t < T; ++t) {
      const Tensor from = args.x.row(t);
      for (int64_t k = 0; k < 2 * K; ++k) x.row(t).as<float>()[k] = load_element(from, k);
    }
  }
  const Tensor y = exec.workspace->alloc(DType::f32, {T, K});
  silu_mul(exec, {.gate = x.slice(1, 0, K), .up = x.slice(1, K, K), .y = y});
  return y;
}

}  // namespace

void fused_quant_apart(Exec& exec, const FusedQuant& args) {
  Workspace::Mark mark(*exec.workspace);
  const int64_t T = args.y.dim(0), K = args.y.dim(1);
  const bool swiglu = args.prologue == FusedQuant::Prologue::swiglu;
  const Tensor x = swiglu ? prologue(exec, args) : args.x;
  float* scale = args.scale.as<float>();
  for (int64_t t = 0; t < T; ++t) {
    const Tensor row = x.row(t);
    for (int64_t b = 0; b < K / kFp8Block; ++b) {
      float most = args.eps;
      for (int64_t k = b * kFp8Block; k < (b + 1) * kFp8Block; ++k)
        most = std::max(most, std::fabs(load_element(row, k)));
      scale[b * args.scale.stride(0) + t] = fp8_scale(most, args.ue8m0);
    }
  }
  for (int64_t t = 0; t < T; ++t) {
    const Tensor row = x.row(t), codes = args.y.row(t);
    for (int64_t k = 0; k < K; ++k)
      store_element(
          codes, k, load_element(row, k) / scale[k / kFp8Block * args.scale.stride(0) + t]
      );
  }
}

}  // namespace fathom::ops
