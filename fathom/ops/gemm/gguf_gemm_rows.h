// The rows of gguf_gemm's kernel table.
#pragma once

#include "fathom/ops/gemm/gguf_gemm.h"

namespace fathom::ops {

void gguf_gemm_ref(Exec& exec, const GgufGemm& args);

// Packed weights; one per instruction level, named by Highway.
namespace N_AVX2 {
void gguf_gemm(Exec& exec, const GgufGemm& args);
}
namespace N_AVX3 {
void gguf_gemm(Exec& exec, const GgufGemm& args);
}
namespace N_AVX3_DL {
void gguf_gemm(Exec& exec, const GgufGemm& args);
}
namespace N_NEON {
void gguf_gemm(Exec& exec, const GgufGemm& args);
}

}  // namespace fathom::ops
