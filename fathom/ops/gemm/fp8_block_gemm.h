// fp8_block_gemm: y[M,N] = x[M,K] W[N,K]^T of FP8 (e4m3) operands with scales of blocks
// (deepseek_v3.md section 6):
//   y[m,n] = sum over blocks b of 128 k:  x_scale[b,m] * w.scale[n/128,b] * dot_b(x[m], w[n])
//
// Shapes: x [M,K] f8e4m3, rows may be strided by a multiple of 16; x_scale [K/128, M4] f32, M4 = M
// rounded up to 4, its last M4 - M columns unread: what fused_quant writes. Or x bf16 and no
// x_scale: x is quantised as fused_quant does (eps 1e-10, ue8m0 as said), without a launch for it;
// the reference takes it, and the rows of which quantises_itself() speaks. w.data [N,K] f8e4m3, or
// [Np, K] f8e4m3x32 (pack_weight.h; N rounded up to 32) on the CPU, or [tiled_rows(N), K] f8e4m3x64
// (weight_tiles.h); w.scale [ceil(N/128), K/128] f32. y [M,N] bf16 or
// f32, contiguous; on a GPU its rows may be strided. K is a multiple of 128; M may be 0. Nothing
// aliases.
// Products are exact; a block's dot is summed in at least 14 bits beside its largest term (Hopper's
// FP8 accumulation), the blocks in float; one rounding to y's dtype. The CPU's packed rows agree
// bit for bit among instruction levels, and an output's bits depend on its row of x and its row of
// w alone, never on M or threads. A NaN code of w gives NaN or 480 times x; one of x gives NaN.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct Fp8BlockGemm {
  Tensor x;
  Tensor x_scale = {};  // undefined: x is not quantised yet
  QTensor w;
  Tensor y;
  bool ue8m0 = false;  // where x is not quantised yet
};

void fp8_block_gemm(Exec& exec, const Fp8BlockGemm& args);

// True when a row other than the reference takes args with x not quantised yet.
bool quantises_itself(const Exec& exec, const Fp8BlockGemm& args);

const KernelTable<Fp8BlockGemm>& fp8_block_gemm_table();
Cost cost(const Fp8BlockGemm& args);

template <class F>
void for_each_tensor(Fp8BlockGemm& args, F f) {
  f("x", args.x, Role::in);
  if (args.x_scale.defined()) f("x_scale", args.x_scale, Role::in);
  f("w", args.w.data, Role::weight);
  f("w_scale", args.w.scale, Role::weight);
  f("y", args.y, Role::out);
}

}  // namespace fathom::ops
