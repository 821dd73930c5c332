// The rows of fused_quant's kernel table.
#pragma once

#include "fathom/ops/quant/fused_quant.h"

namespace fathom::ops {

void fused_quant_cuda_vec(Exec& exec, const FusedQuant& args);
void fused_quant_ref(Exec& exec, const FusedQuant& args);

}  // namespace fathom::ops
