// The rows of rms_norm_quant's kernel table.
#pragma once

#include "fathom/ops/norm/rms_norm_quant.h"

namespace fathom::ops {

void rms_norm_quant_ref(Exec& exec, const RmsNormQuant& args);
// The two ops one after the other, on any device: what fusing is measured against (feature
// fused_quant).
void rms_norm_quant_parts(Exec& exec, const RmsNormQuant& args);

// One per instruction level, named by Highway; they agree bit for bit.
namespace N_AVX2 {
void rms_norm_quant(Exec& exec, const RmsNormQuant& args);
}
namespace N_AVX3 {
void rms_norm_quant(Exec& exec, const RmsNormQuant& args);
}
namespace N_NEON {
void rms_norm_quant(Exec& exec, const RmsNormQuant& args);
}

bool rms_norm_quant_takes_cuda_vec(const Exec& exec, const RmsNormQuant& args);
void rms_norm_quant_cuda_vec(Exec& exec, const RmsNormQuant& args);

}  // namespace fathom::ops
