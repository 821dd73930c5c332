// head_gemm: one product for each head, y[t, h] = x[t, h] W_h^T: how absorbed latent attention
// moves queries into the latent space and attended latents out of it (specs deepseek_v3, section
// 2.5).
//
// Shapes: x [T, H, K], y [T, H, N], f32 or bf16, independently, tokens and heads strided; weight
// [H * N, K], the heads' N rows one after another, contiguous: plain f32, bf16 or f16, or a CPU
// pack of those (pack_weight.h) with N a multiple of its 32 rows. Nothing aliases. T may be 0.
//
// Arithmetic as bf16_gemm: on the CPU the same bits as its product of one head.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct HeadGemm {
  Tensor x;
  Tensor weight;
  Tensor y;
};

void head_gemm(Exec& exec, const HeadGemm& args);

const KernelTable<HeadGemm>& head_gemm_table();
Cost cost(const HeadGemm& args);

template <class F>
void for_each_tensor(HeadGemm& args, F f) {
  f("x", args.x, Role::in);
  f("weight", args.weight, Role::weight);
  f("y", args.y, Role::out);
}

}  // namespace fathom::ops
