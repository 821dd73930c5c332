// The rows of mla_kv_append's kernel table.
#pragma once

#include "fathom/ops/attention/mla_kv_append.h"

namespace fathom::ops {

void mla_kv_append_ref(Exec& exec, const MlaKvAppend& args);

bool mla_kv_append_takes_cuda_vec(const Exec& exec, const MlaKvAppend& args);
void mla_kv_append_cuda_vec(Exec& exec, const MlaKvAppend& args);

}  // namespace fathom::ops
