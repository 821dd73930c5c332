// silu_mul: y = silu(gate) * up, silu(x) = x / (1 + exp(-x)): the middle of SwiGLU.
//
// Shapes: gate, up, y [T, I], f32 or bf16, the same; rows may be strided (gate and up are the
// halves of one product). y may alias gate or up. T may be 0. Float arithmetic, one rounding.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct SiluMul {
  Tensor gate;
  Tensor up;
  Tensor y;
};

void silu_mul(Exec& exec, const SiluMul& args);

const KernelTable<SiluMul>& silu_mul_table();
Cost cost(const SiluMul& args);

template <class F>
void for_each_tensor(SiluMul& args, F f) {
  f("gate", args.gate, Role::in);
  f("up", args.up, Role::in);
  f("y", args.y, Role::out);
}

}  // namespace fathom::ops
