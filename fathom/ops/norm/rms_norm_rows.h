// The rows of rms_norm's kernel table.
#pragma once

#include "fathom/ops/norm/rms_norm.h"

namespace fathom::ops {

void rms_norm_ref(Exec& exec, const RmsNorm& args);

// One per instruction level, named by Highway; they agree bit for bit.
namespace N_AVX2 {
void rms_norm(Exec& exec, const RmsNorm& args);
}
namespace N_AVX3 {
void rms_norm(Exec& exec, const RmsNorm& args);
}
namespace N_NEON {
void rms_norm(Exec& exec, const RmsNorm& args);
}
void rms_norm_cuda_vec(Exec& exec, const RmsNorm& args);

}  // namespace fathom::ops
