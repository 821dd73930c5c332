// The rows of rope_append's kernel table.
#pragma once

#include "fathom/ops/attention/rope_append.h"

namespace fathom::ops {

void rope_append_ref(Exec& exec, const RopeAppend& args);
// The two ops one after another, each by its own table.
void rope_append_parts(Exec& exec, const RopeAppend& args);
// CUDA: BF16 throughout, 16-byte vectors.
bool rope_append_takes_cuda_vec(const Exec& exec, const RopeAppend& args);
void rope_append_cuda_vec(Exec& exec, const RopeAppend& args);

}  // namespace fathom::ops
