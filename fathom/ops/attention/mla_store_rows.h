// The rows of mla_store's kernel table.
#pragma once

#include "fathom/ops/attention/mla_store.h"

namespace fathom::ops {

void mla_store_ref(Exec& exec, const MlaStore& args);
// The three ops, each by its own table.
void mla_store_parts(Exec& exec, const MlaStore& args);

// CUDA: bf16 activations, bf16 or FP8 rows of the cache, L a multiple of 256, at most 2048.
bool mla_store_takes_cuda_vec(const Exec& exec, const MlaStore& args);
void mla_store_cuda_vec(Exec& exec, const MlaStore& args);

}  // namespace fathom::ops
