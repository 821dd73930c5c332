// The rows of moe_gate's kernel table.
#pragma once

#include "fathom/ops/moe/moe_gate.h"

namespace fathom::ops {

void moe_gate_ref(Exec& exec, const MoeGate& args);

}  // namespace fathom::ops
