// The rows of head_gemm's kernel table.
#pragma once

#include "fathom/ops/gemm/head_gemm.h"

namespace fathom::ops {

// bf16_gemm, a head at a time: through its table; by its reference.
void head_gemm_by_head(Exec& exec, const HeadGemm& args);
void head_gemm_ref(Exec& exec, const HeadGemm& args);

// CUDA: all bf16, N a multiple of 8, K of 32.
bool head_gemm_takes_mma(const Exec& exec, const HeadGemm& args);
void head_gemm_mma(Exec& exec, const HeadGemm& args);
// CUDA: plain weights.
bool head_gemm_takes_cuda_plain(const Exec& exec, const HeadGemm& args);
void head_gemm_cuda_plain(Exec& exec, const HeadGemm& args);

}  // namespace fathom::ops
