// gguf_gemm: y = x W^T + bias, W in a GGUF block format or its packed form.
//
// Shapes: x [M, K]; weight [N, K] in a block dtype, or [Np, K] packed (pack_weight.h; Np = N
// rounded up to 16); bias [N]; y [M, N]. x, y f32 or bf16, independently; bias f32 or bf16. Rows of
// x and y may be strided. y aliases nothing. M and N may be 0; K > 0.
//
// Arithmetic: the reference decodes weights to float and sums in double. The packed rows round x
// per 32 consecutive k to integers of two int8 digits (multiples of d, the least power of two that
// is at least amax / 32512) or, rows *_int8, of one (d = amax / 127), quotients to nearest even;
// take exact integer dots with the codes, and add blocks in ascending k with one float FMA chain
// per output: an output's bits depend on its row of x and its row of W alone, never on M, threads
// or the instruction level. Against the reference every element of x is off by at most d / 2.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct GgufGemm {
  Tensor x;
  Tensor weight;
  Tensor bias = {};  // undefined: none
  Tensor y;
};

void gguf_gemm(Exec& exec, const GgufGemm& args);

const KernelTable<GgufGemm>& gguf_gemm_table();
Cost cost(const GgufGemm& args);

template <class F>
void for_each_tensor(GgufGemm& args, F f) {
  f("x", args.x, Role::in);
  f("weight", args.weight, Role::weight);
  if (args.bias.defined()) f("bias", args.bias, Role::weight);
  f("y", args.y, Role::out);
}

}  // namespace fathom::ops
