// The rows of silu_mul's kernel table.
#pragma once

#include "fathom/ops/act/silu_mul.h"

namespace fathom::ops {

void silu_mul_ref(Exec& exec, const SiluMul& args);
void silu_mul_cuda_vec(Exec& exec, const SiluMul& args);

// One per instruction level, named by Highway; they agree bit for bit.
namespace N_AVX2 {
void silu_mul(Exec& exec, const SiluMul& args);
}
namespace N_AVX3 {
void silu_mul(Exec& exec, const SiluMul& args);
}
namespace N_NEON {
void silu_mul(Exec& exec, const SiluMul& args);
}

}  // namespace fathom::ops
