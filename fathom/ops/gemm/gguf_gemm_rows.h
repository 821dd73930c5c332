// The rows of gguf_gemm's kernel table.
#pragma once

#include "fathom/ops/gemm/gguf_gemm.h"

namespace fathom::ops {

void gguf_gemm_ref(Exec& exec, const GgufGemm& args);

}  // namespace fathom::ops
