// head_gemm: one product for each head, y[t, h] = x[t, h] W_h^T: how absorbed latent attention
// moves queries into the latent space and attended latents out of it (specs deepseek_v3, section
// 2.5).
//
// Shapes: x [T, H, K], y [T, H, N], f32 or bf16, independently, tokens and heads strided; weight
// [H * N, K], the heads' N rows one after another, contiguous: plain f32, bf16 or f16, or a CPU
// pack of those (pack_weight.h) with N a multiple of its 32 rows. Or, on the CPU, e4m3 codes, plain
// or packed (f8e4m3x32), that act as their dequantised values: N and K multiples of 128 and
// weight_scale [H * N / 128, K / 128] f32. Nothing aliases. T may be 0.
//
// Arithmetic of float weights as bf16_gemm's: on the CPU the same bits as its product of one head.
// Of codes: x in at least 16 bits, or rounded to bf16 (row avx512_bf16_rounded), blocks of 128 k
// summed in float, then scaled and added. An output's bits depend on its row of x and its row of
// the weight alone.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct HeadGemm {
  Tensor x;
  Tensor weight;
  Tensor weight_scale = {};  // of codes
  Tensor y;
};

void head_gemm(Exec& exec, const HeadGemm& args);

const KernelTable<HeadGemm>& head_gemm_table();
Cost cost(const HeadGemm& args);

template <class F>
void for_each_tensor(HeadGemm& args, F f) {
  f("x", args.x, Role::in);
  f("weight", args.weight, Role::weight);
  if (args.weight_scale.defined()) f("weight_scale", args.weight_scale, Role::weight);
  f("y", args.y, Role::out);
}

}  // namespace fathom::ops
