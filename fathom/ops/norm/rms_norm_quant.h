// rms_norm_quant: rms_norm (rms_norm.h) whose output goes to FP8 products alone: quantised as
// fused_quant (quant/fused_quant.h) does, written nowhere else.
//
//   r = x + residual             where there is one: rounded to its dtype, written back
//   n = norm(r) * weight         rounded to x's dtype
//   y, scale = fused_quant(n)    per token and 128 columns
//
// Every row equals rms_norm and then fused_quant by the same device's rows, bit by bit, unless
// those took a row for unaligned tensors.
//
// Shapes: x, residual [T, C] f32 or bf16, the same; weight [C] f32 or bf16; y [T, C] f8e4m3; scale
// [C / 128, T] f32. C is a multiple of 128; T may be 0. Rows of all but weight may be strided.
// Nothing aliases. Source: specs optimisations_v3, rows 3 and 24.
// Used by layers::Linear::behind_norm, where the product does not quantise for itself.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct RmsNormQuant {
  Tensor x;
  Tensor weight;
  float eps = 1e-5f;
  Tensor residual = {};  // undefined: none
  bool ue8m0 = false;    // power-of-two scales
  float group_eps = 1e-10f;
  Tensor y;
  Tensor scale;
};

void rms_norm_quant(Exec& exec, const RmsNormQuant& args);

const KernelTable<RmsNormQuant>& rms_norm_quant_table();
Cost cost(const RmsNormQuant& args);

template <class F>
void for_each_tensor(RmsNormQuant& args, F f) {
  f("x", args.x, Role::in);
  f("weight", args.weight, Role::weight);
  if (args.residual.defined()) f("residual", args.residual, Role::inout);
  f("y", args.y, Role::out);
  f("scale", args.scale, Role::out);
}

}  // namespace fathom::ops
