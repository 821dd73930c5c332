// rms_norm: y = x / sqrt(mean(x^2) + eps) * weight, over the last dimension, optionally after
// adding a residual:
//   r = x + residual (rounded to residual's dtype, written back);  y = norm(r)
//
// Shapes: x, residual, y [T, C]; weight [C]. x and y f32 or bf16, the same; residual like x. T may
// be 0. Rows of x, residual and y may be strided. y may alias x; residual may alias neither. Mean
// and product in float; one rounding to y's dtype at the end (models_other.md section 0: "GPT-OSS"
// order; the Llama order differs by one bf16 rounding of the product and is within the op's bound).
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct RmsNorm {
  Tensor x;
  Tensor weight;
  float eps = 1e-5f;
  Tensor residual = {};  // undefined: none
  Tensor y;
};

void rms_norm(Exec& exec, const RmsNorm& args);

const KernelTable<RmsNorm>& rms_norm_table();
Cost cost(const RmsNorm& args);

template <class F>
void for_each_tensor(RmsNorm& args, F f) {
  f("x", args.x, Role::in);
  f("weight", args.weight, Role::weight);
  if (args.residual.defined()) f("residual", args.residual, Role::inout);
  f("y", args.y, Role::out);
}

}  // namespace fathom::ops
