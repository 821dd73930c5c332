// grouped_moe: the routed experts of one MoE layer, from the gate's ids and weights to the summed
// output.
//
//   for each token t and slot s with ids[t, s] = e >= 0:
//     gu     = x_t gate_up[e]^T                        [2 I], gate first
//     h      = silu(gu[:I]) * gu[I:]
//     out_s  = h down[e]^T                             [C]
//   y_t = scale * (sum over s, ascending, of weights[t, s] * out_s)   (+ addend_t, last)
//
// On a GPU scale is 1. Slots with id -1 add nothing: their token costs no expert work. The gate
// gives ids in ascending order, so the sum runs in ascending expert order. Every token's result
// depends on its own row alone, never on T, on other tokens, or on threads.
//
// Arithmetic: products and sums in float or wider, y rounded once. h is rounded to x's dtype.
// FP8 weights are e4m3 with an f32 scale per 128x128 block, partial sums of 128 scaled and added in
// float. With quantise_activations, x and h (unrounded) are first quantised as fused_quant does
// (eps 1e-10, scales f32 or ue8m0): W8A8. Without, FP8 weights act as their dequantised values.
// int8 weights have an f32 scale per output channel, as FP8's may: x and h (unrounded) are
// quantised as w8a8_gemm does, quantise_activations is to be true.
//
// Shapes: x [T, C], f32 or bf16; ids [T, k] i32, below E; weights [T, k] f32;
//   gate_up.data [E, 2 I, C], gate_up.scale [E, ceil(2I/128), ceil(C/128)];
//   down.data [E, C, I], down.scale [E, ceil(C/128), ceil(I/128)]; per channel, scales [E, 2 I]
//   and [E, C]; addend, y [T, C] of x's dtype.
//   Weights f8e4m3 or i8 (with scales), bf16 or f32 (without), both of one dtype, plain; or a
//   packed dtype with dims [E, packed_rows, K], which only rows that name it take
//   (ops/gemm/pack_weight.h); or tiles, dims [E, rows, K] with 2 I and C multiples of 64
//   (ops/gemm/weight_tiles.h), which CUDA rows and the reference take. FP8 in blocks or
//   packed needs C and I to be multiples of 128. T may be 0. Rows of x, addend and y may be
//   strided. y may alias addend, nothing else.
// Source: specs deepseek_v3, sections 5.4 and 5.6.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct GroupedMoe {
  Tensor x;
  Tensor ids;
  Tensor weights;
  QTensor gate_up;
  QTensor down;
  bool quantise_activations = false;  // FP8 and int8 weights only
  bool ue8m0 = false;                 // then: with power-of-two scales
  float scale = 1.0f;                 // of the experts' sum, where the gate's weights have none
  Tensor addend = {};                 // undefined: none; the shared expert's output
  Tensor y;
};

void grouped_moe(Exec& exec, const GroupedMoe& args);

// Workspace that a CUDA row takes for up to `tokens` tokens of `slots` experts each, at most; CPU
// rows keep a few floats a slot and channel.
struct MoeSize {
  int64_t tokens, slots, experts, hidden, intermediate;  // T, k, E, C, I
};
int64_t grouped_moe_scratch_bytes(const MoeSize& size);

const KernelTable<GroupedMoe>& grouped_moe_table();
// Counts the weights of the distinct experts of `ids`, which must be readable by the host.
Cost cost(const GroupedMoe& args);

template <class F>
void for_each_tensor(GroupedMoe& args, F f) {
  f("x", args.x, Role::in);
  f("ids", args.ids, Role::in);
  f("weights", args.weights, Role::in);
  f("gate_up", args.gate_up.data, Role::weight);
  if (args.gate_up.scale.defined()) f("gate_up.scale", args.gate_up.scale, Role::weight);
  f("down", args.down.data, Role::weight);
  if (args.down.scale.defined()) f("down.scale", args.down.scale, Role::weight);
  if (args.addend.defined()) f("addend", args.addend, Role::in);
  f("y", args.y, Role::out);
}

}  // namespace fathom::ops
