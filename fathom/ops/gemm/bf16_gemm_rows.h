// The rows of bf16_gemm's kernel table.
#pragma once

#include "fathom/ops/gemm/bf16_gemm.h"

namespace fathom::ops {

void bf16_gemm_ref(Exec& exec, const Bf16Gemm& args);

}  // namespace fathom::ops
