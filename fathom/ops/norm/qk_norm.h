// qk_norm: the RMS norm of each query and key head, in place, before rope (Qwen3):
//   x = x / sqrt(mean(x^2) + eps) * weight, over D.
//
// Shapes: q [T, H, D], k [T, Hkv, D], f32 or bf16, the same; token strides free, heads and elements
// contiguous; q_weight, k_weight [D], f32 or bf16. Mean and product in float or wider, one
// rounding.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct QkNorm {
  Tensor q_weight;
  Tensor k_weight;
  float eps = 1e-6f;
  Tensor q;
  Tensor k;
};

void qk_norm(Exec& exec, const QkNorm& args);

const KernelTable<QkNorm>& qk_norm_table();
Cost cost(const QkNorm& args);

template <class F>
void for_each_tensor(QkNorm& args, F f) {
  f("q_weight", args.q_weight, Role::weight);
  f("k_weight", args.k_weight, Role::weight);
  f("q", args.q, Role::inout);
  f("k", args.k, Role::inout);
}

}  // namespace fathom::ops
