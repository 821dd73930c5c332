// The rows of mla_kv_append's kernel table.
#pragma once

#include "fathom/ops/attention/mla_kv_append.h"

namespace fathom::ops {

// Latent and rope key joined to one row first: what feature fused_kv_store saves.
void mla_kv_append_ref(Exec& exec, const MlaKvAppend& args);

// CPU: float rows, L and R multiples of 32. One per instruction level,
// named by Highway; they agree bit for bit.
namespace N_AVX2 {
void mla_kv_append(Exec& exec, const MlaKvAppend& args);
}
namespace N_AVX3 {
void mla_kv_append(Exec& exec, const MlaKvAppend& args);
}
namespace N_NEON {
void mla_kv_append(Exec& exec, const MlaKvAppend& args);
}

bool mla_kv_append_takes_cuda_vec(const Exec& exec, const MlaKvAppend& args);
void mla_kv_append_cuda_vec(Exec& exec, const MlaKvAppend& args);

}  // namespace fathom::ops
