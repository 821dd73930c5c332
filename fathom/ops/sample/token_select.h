// token_select: y[i] = source[index[i]] where index[i] >= 0; the other elements of y stay. How a
// step's tokens come from the sequences' slots, and go back there, without the host.
//
// Shapes: source [n] i32, index [m] i32 in [-1, n), y [m] i32; y aliases nothing. m may be 0.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct TokenSelect {
  Tensor source;
  Tensor index;
  Tensor y;
};

void token_select(Exec& exec, const TokenSelect& args);

const KernelTable<TokenSelect>& token_select_table();
Cost cost(const TokenSelect& args);

template <class F>
void for_each_tensor(TokenSelect& args, F f) {
  f("source", args.source, Role::in);
  f("index", args.index, Role::in);
  f("y", args.y, Role::inout);
}

}  // namespace fathom::ops
