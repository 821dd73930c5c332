// The rows of head_gemm's kernel table.
#pragma once

#include "fathom/ops/gemm/head_gemm.h"

namespace fathom::ops {

// bf16_gemm, a head at a time: through its table; by its reference.
void head_gemm_by_head(Exec& exec, const HeadGemm& args);
void head_gemm_ref(Exec& exec, const HeadGemm& args);

// Packed codes, all heads in one parallel run; one per instruction level, named by Highway. The one
// of AVX3_DL needs bf16 dot products too.
namespace N_AVX2 {
void head_gemm_fp8(Exec& exec, const HeadGemm& args);
}
namespace N_AVX3 {
void head_gemm_fp8(Exec& exec, const HeadGemm& args);
}
namespace N_AVX3_DL {
void head_gemm_fp8(Exec& exec, const HeadGemm& args);
// Activations rounded to bf16.
void head_gemm_fp8_rounded(Exec& exec, const HeadGemm& args);
}  // namespace N_AVX3_DL
namespace N_NEON {
void head_gemm_fp8(Exec& exec, const HeadGemm& args);
}

// CUDA: all bf16, N a multiple of 8, K of 32.
bool head_gemm_takes_mma(const Exec& exec, const HeadGemm& args);
void head_gemm_mma(Exec& exec, const HeadGemm& args);
// CUDA: plain weights.
bool head_gemm_takes_cuda_plain(const Exec& exec, const HeadGemm& args);
void head_gemm_cuda_plain(Exec& exec, const HeadGemm& args);

}  // namespace fathom::ops
