// w8a8_gemm: y = x W^T + bias with int8 or FP8 (e4m3) weights that have a scale per output channel,
// and x rounded alike with a scale per token (V3 row 32; architecture: feature w8a8):
//   y[m,n] = (sum over k of q[m,k] w[n,k]) * x_scale[m] * w.scale[n] + bias[n]
// With most = max(amax(|x[m,:]|), 1e-10) a token is rounded to nearest even and saturated:
//   int8:  x_scale[m] = most / 127,  q[m,k] = x[m,k] * (127 / most), saturated to +-127
//   FP8:   x_scale[m] = most / 448,  q[m,k] = x[m,k] / x_scale[m], saturated to +-448
// amax, quotient and product are float operations, each rounded by itself: every row of the kernel
// table makes the same codes.
//
// int8's sum is one int32 over the whole of K and exact; it becomes a float by rounding, is scaled
// in registers and rounded once to y's dtype. FP8's products are exact and summed in float; a GPU's
// row for many tokens sums 128 of them with about 14 bits and those sums in float. A token that is
// not finite makes all its outputs NaN or infinite, and no others.
//
// Shapes: x [M,K] f32 or bf16, finite; w.data [N,K] i8 or f8e4m3, of i8 all 256 codes allowed, of
// f8e4m3 all but NaN; or [Np,K] i8x16 or f8e4m3x32 on the CPU (pack_weight.h; Np = N rounded up to
// 16 or 32), or [tiled_rows(N),K] i8x64 or f8e4m3x64 on the GPU (weight_tiles.h); w.scale [N] f32;
// bias [N] f32 or bf16; y [M,N] f32 or bf16. Rows of x and y may be strided. y aliases nothing. M
// and N may be 0; 0 < K <= 2^17, a multiple of 128 where f8e4m3 is packed. The CPU's vector rows
// agree bit for bit, and an output's bits depend on its row of x and its row of w alone, never on M
// or threads.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct W8a8Gemm {
  Tensor x;
  QTensor w;
  Tensor bias = {};  // undefined: none
  Tensor y;
};

// A matrix, or a stack of them, whose scales are one per row: what w8a8_gemm takes. Scales of
// blocks have as many dimensions as the codes.
inline bool has_channel_scales(const QTensor& w) {
  return w.scale.defined() && w.scale.rank + 1 == w.data.rank;
}

void w8a8_gemm(Exec& exec, const W8a8Gemm& args);

const KernelTable<W8a8Gemm>& w8a8_gemm_table();
Cost cost(const W8a8Gemm& args);

template <class F>
void for_each_tensor(W8a8Gemm& args, F f) {
  f("x", args.x, Role::in);
  f("w", args.w.data, Role::weight);
  f("w_scale", args.w.scale, Role::weight);
  if (args.bias.defined()) f("bias", args.bias, Role::weight);
  f("y", args.y, Role::out);
}

}  // namespace fathom::ops
