// expert_quant: fused_quant (quant/fused_quant.h) of the rows that experts have, and of no other:
// of a token's copies behind routing, or of what experts' first products gave, with SwiGLU.
//
//   y[r], scale[:, r] = fused_quant(x[r])    first[e] <= r < first[e] + count[e], every expert e
//
// Both layouts of experts' rows are said so: one after another (first, count from moe_align's
// begin), or a fixed room for each, mostly empty (first[e] = e * room). Rows of no expert are left
// alone, in y and in scale.
//
// Shapes: x [S, K], or [S, 2 K] with swiglu, f32 or bf16; y [S, K] f8e4m3; scale [K / 128, S] f32;
// first, count [E] i32, E <= 1024, whose ranges do not overlap and lie in [0, S). K is a multiple
// of 128; S may be 0. Rows of x, y and scale may be strided. Nothing aliases. Rows equal
// fused_quant's of the same device, bit by bit with Prologue::none.
// Source: specs optimisations_aug2025, row 6 (the Hopper equivalent).
// Used by no layer: grouped_moe quantises x with its routes and the hidden rows behind its first
// product. For experts whose products stand alone.
#pragma once

#include "fathom/ops/quant/fused_quant.h"

namespace fathom::ops {

struct ExpertQuant {
  Tensor x;
  Tensor first, count;
  FusedQuant::Prologue prologue = FusedQuant::Prologue::none;
  bool ue8m0 = false;
  float eps = 1e-10f;
  Tensor y;
  Tensor scale;
};

void expert_quant(Exec& exec, const ExpertQuant& args);

// The CTAs and threads of a grid that strides over `work` threads' worth: blocks shrink while
// processors would be idle, and no more of them start than run at once.
struct GridShape {
  int64_t ctas;
  int threads;
};
GridShape grid_for(int64_t work, int processors);

const KernelTable<ExpertQuant>& expert_quant_table();
Cost cost(const ExpertQuant& args);

template <class F>
void for_each_tensor(ExpertQuant& args, F f) {
  f("x", args.x, Role::in);
  f("first", args.first, Role::in);
  f("count", args.count, Role::in);
  f("y", args.y, Role::inout);
  f("scale", args.scale, Role::inout);
}

}  // namespace fathom::ops
