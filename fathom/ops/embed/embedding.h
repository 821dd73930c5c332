// embedding: y[t] = row tokens[t] of the embedding matrix, as float values rounded once to y.
//
// Shapes: tokens [T] i32; weight [V, C], or [Vp, C] packed (gemm/pack_weight.h); y [T, C], f32 or
// bf16, rows may be strided. Any plain float, GGUF block or packed dtype of weight. Token ids lie
// in [0, Vp): the caller answers for what clients send.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct Embedding {
  Tensor tokens;
  Tensor weight;
  Tensor y;
};

void embedding(Exec& exec, const Embedding& args);

const KernelTable<Embedding>& embedding_table();
Cost cost(const Embedding& args);

template <class F>
void for_each_tensor(Embedding& args, F f) {
  f("tokens", args.tokens, Role::in);
  f("weight", args.weight, Role::weight);
  f("y", args.y, Role::out);
}

}  // namespace fathom::ops
