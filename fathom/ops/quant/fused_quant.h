// fused_quant: dynamic e4m3 quantisation of activations, one scale per token and group of 128
// values, optionally behind SwiGLU, written in the layout that FP8 products read.
//
//   v      = x                                  Prologue::none
//          = silu(x[:, :K]) * x[:, K:]          Prologue::swiglu, in float, not rounded between
//   amax   = max(|v_0| .. |v_127|, eps)         over the group; the last one may be shorter
//   scale  = amax / 448                         ue8m0: the least power of two not below that
//   y      = e4m3(v / scale)                    nearest even, saturated at +-448
//
// Both divisions are IEEE float divisions: with Prologue::none every row equals the reference bit
// by bit. A group of zeros gives codes 0 and scale eps / 448. NaN stays NaN.
//
// Shapes: x [T, K], or [T, 2 K] with swiglu (gate first), f32 or bf16; y [T, K] f8e4m3; scale
// [ceil(K/128), T] f32: one row per group, so that a product reads the scales of neighbouring
// tokens together. Rows of all three may be strided; a product that loads scale rows by TMA gets
// them padded to multiples of 4 floats by its caller. T may be 0; K > 0. Nothing aliases.
// Source: specs deepseek_v3, sections 6.2 and 6.3.
#pragma once

#include <cstdint>

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct FusedQuant {
  enum class Prologue : uint8_t { none, swiglu };

  Tensor x;
  Prologue prologue = Prologue::none;
  bool ue8m0 = false;
  float eps = 1e-10f;
  Tensor y;
  Tensor scale;
};

void fused_quant(Exec& exec, const FusedQuant& args);

const KernelTable<FusedQuant>& fused_quant_table();
Cost cost(const FusedQuant& args);

template <class F>
void for_each_tensor(FusedQuant& args, F f) {
  f("x", args.x, Role::in);
  f("y", args.y, Role::out);
  f("scale", args.scale, Role::out);
}

}  // namespace fathom::ops
