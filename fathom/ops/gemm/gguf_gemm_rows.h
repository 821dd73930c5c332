// The rows of gguf_gemm's kernel table.
#pragma once

#include "fathom/ops/gemm/gguf_gemm.h"

namespace fathom::ops {

void gguf_gemm_ref(Exec& exec, const GgufGemm& args);

// Packed weights; a pair per instruction level, named by Highway. gguf_gemm rounds activations to
// two int8 digits, 15 bits in all; gguf_gemm_int8 to one, as llama.cpp does (feature
// int8_activations).
namespace N_AVX2 {
void gguf_gemm(Exec& exec, const GgufGemm& args);
void gguf_gemm_int8(Exec& exec, const GgufGemm& args);
}  // namespace N_AVX2
namespace N_AVX3 {
void gguf_gemm(Exec& exec, const GgufGemm& args);
void gguf_gemm_int8(Exec& exec, const GgufGemm& args);
}  // namespace N_AVX3
namespace N_AVX3_DL {
void gguf_gemm(Exec& exec, const GgufGemm& args);
void gguf_gemm_int8(Exec& exec, const GgufGemm& args);
}  // namespace N_AVX3_DL
namespace N_NEON {
void gguf_gemm(Exec& exec, const GgufGemm& args);
void gguf_gemm_int8(Exec& exec, const GgufGemm& args);
}  // namespace N_NEON

}  // namespace fathom::ops
