// The rows of silu_mul's kernel table.
#pragma once

#include "fathom/ops/act/silu_mul.h"

namespace fathom::ops {

void silu_mul_ref(Exec& exec, const SiluMul& args);
void silu_mul_cuda_vec(Exec& exec, const SiluMul& args);

}  // namespace fathom::ops
