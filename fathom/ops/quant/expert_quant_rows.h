// The rows of expert_quant's kernel table.
#pragma once

#include "fathom/ops/quant/expert_quant.h"

namespace fathom::ops {

void expert_quant_ref(Exec& exec, const ExpertQuant& args);
// fused_quant of each expert's rows.
void expert_quant_by_expert(Exec& exec, const ExpertQuant& args);

bool expert_quant_takes_cuda_strided(const Exec& exec, const ExpertQuant& args);
void expert_quant_cuda_strided(Exec& exec, const ExpertQuant& args);

}  // namespace fathom::ops
