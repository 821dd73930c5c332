// The rows of mla_store's kernel table.
#pragma once

#include "fathom/ops/attention/mla_store.h"

namespace fathom::ops {

void mla_store_ref(Exec& exec, const MlaStore& args);
// The three ops, each by its own table: what feature fused_rope_store saves.
void mla_store_parts(Exec& exec, const MlaStore& args);

// CPU: float rows of the cache, L and R multiples of 32, R within rope's. One per instruction
// level, named by Highway; they agree bit for bit.
namespace N_AVX2 {
void mla_store(Exec& exec, const MlaStore& args);
}
namespace N_AVX3 {
void mla_store(Exec& exec, const MlaStore& args);
}
namespace N_NEON {
void mla_store(Exec& exec, const MlaStore& args);
}

// CUDA: bf16 activations, bf16 or FP8 rows of the cache, L a multiple of 256, at most 2048.
bool mla_store_takes_cuda_vec(const Exec& exec, const MlaStore& args);
void mla_store_cuda_vec(Exec& exec, const MlaStore& args);

}  // namespace fathom::ops
