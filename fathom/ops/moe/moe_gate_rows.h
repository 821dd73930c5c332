// The rows of moe_gate's kernel table.
#pragma once

#include "fathom/ops/moe/moe_gate.h"

namespace fathom::ops {

// CUDA. Takes all but expert counts whose groups cannot be laid out in whole lanes of a warp.
bool moe_gate_takes_warp(const Exec& exec, const MoeGate& args);
void moe_gate_cuda_warp(Exec& exec, const MoeGate& args);
// Few tokens, sigmoid, groups of 32 experts.
bool moe_gate_takes_groups(const Exec& exec, const MoeGate& args);
void moe_gate_cuda_groups(Exec& exec, const MoeGate& args);

// CPU.
void moe_gate_select(Exec& exec, const MoeGate& args);
void moe_gate_ref(Exec& exec, const MoeGate& args);

}  // namespace fathom::ops
