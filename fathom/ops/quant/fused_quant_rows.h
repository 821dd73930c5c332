// The rows of fused_quant's kernel table.
#pragma once

#include "fathom/ops/quant/fused_quant.h"

namespace fathom::ops {

void fused_quant_cuda_vec(Exec& exec, const FusedQuant& args);
void fused_quant_ref(Exec& exec, const FusedQuant& args);
// CPU: the prologue by an op of its own, then the largest magnitudes, then the codes, each over the
// whole step: what fusing is measured against (feature fused_quant).
void fused_quant_apart(Exec& exec, const FusedQuant& args);

// Whole groups of 128. One per instruction level, named by Highway; they agree bit for bit.
namespace N_AVX2 {
void fused_quant(Exec& exec, const FusedQuant& args);
}
namespace N_AVX3 {
void fused_quant(Exec& exec, const FusedQuant& args);
}
namespace N_NEON {
void fused_quant(Exec& exec, const FusedQuant& args);
}

}  // namespace fathom::ops
