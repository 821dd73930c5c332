// row_gather: y[i] = x[rows[i]]: the hidden states whose logits are wanted.
//
// Shapes: x [T, C], rows [n] i32 in [0, T), y [n, C]; x and y f32 or bf16, the same; rows of both
// may be strided. y aliases nothing. n may be 0.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct RowGather {
  Tensor x;
  Tensor rows;
  Tensor y;
};

void row_gather(Exec& exec, const RowGather& args);

const KernelTable<RowGather>& row_gather_table();
Cost cost(const RowGather& args);

template <class F>
void for_each_tensor(RowGather& args, F f) {
  f("x", args.x, Role::in);
  f("rows", args.rows, Role::in);
  f("y", args.y, Role::out);
}

}  // namespace fathom::ops
