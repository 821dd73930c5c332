// bf16_gemm: y = x W^T + bias, W in a plain float type (bf16, f16 or f32) or its CPU pack.
//
// Shapes: x [M, K]; weight [N, K], or [Np, K] packed (pack_weight.h; Np = N rounded up to 32);
// bias [N]; y [M, N]. x, y f32 or bf16, independently; bias f32 or bf16. Rows of x, of a plain
// weight and of y may be strided. y aliases nothing. M and N may be 0; K > 0.
//
// Arithmetic: products of the float values of x and W; the reference sums in double, other rows in
// float; one rounding to y's dtype at the end. The CPU's packed rows add k in ascending order with
// one FMA chain per output: an output's bits depend on its row of x and its row of W alone, never
// on M, threads or the instruction level. CUDA rows take bf16 x, W and y.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct Bf16Gemm {
  Tensor x;
  Tensor weight;
  Tensor bias = {};  // undefined: none
  Tensor y;
};

void bf16_gemm(Exec& exec, const Bf16Gemm& args);

const KernelTable<Bf16Gemm>& bf16_gemm_table();
Cost cost(const Bf16Gemm& args);

template <class F>
void for_each_tensor(Bf16Gemm& args, F f) {
  f("x", args.x, Role::in);
  f("weight", args.weight, Role::weight);
  if (args.bias.defined()) f("bias", args.bias, Role::weight);
  f("y", args.y, Role::out);
}

}  // namespace fathom::ops
