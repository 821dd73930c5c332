// rope: rotates the query and key heads of each token by its position, in place.
//
// For the pair i of a head, with c = table[position, i] and s = table[position, D/2 + i]:
//   a' = a c - b s;  b' = b c + a s
// where (a, b) = (x[i], x[i + D/2]) for RopePairs::halves (NeoX, HF checkpoints) or
// (x[2i], x[2i + 1]) for RopePairs::adjacent (the original form; GGUF files of the llama
// architecture, whose q and k rows are permuted to it).
//
// Shapes: q [T, H, D], k [T, Hkv, D], f32 or bf16, the same; strides of tokens and heads are free
// (MLA rotates the last R of each head). positions [T] i32 in [0, S); table [S, D] f32, cosines
// then sines. D is even. Float arithmetic, one rounding.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

enum class RopePairs : uint8_t { halves, adjacent };

struct Rope {
  Tensor positions;
  Tensor table;
  RopePairs pairs = RopePairs::halves;
  Tensor q;
  Tensor k;
};

void rope(Exec& exec, const Rope& args);

const KernelTable<Rope>& rope_table();
Cost cost(const Rope& args);

template <class F>
void for_each_tensor(Rope& args, F f) {
  f("positions", args.positions, Role::in);
  f("table", args.table, Role::weight);
  f("q", args.q, Role::inout);
  f("k", args.k, Role::inout);
}

}  // namespace fathom::ops
