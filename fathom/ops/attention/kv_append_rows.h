// The rows of kv_append's kernel table.
#pragma once

#include "fathom/ops/attention/kv_append.h"

namespace fathom::ops {

void kv_append_ref(Exec& exec, const KvAppend& args);
void kv_append_cuda_vec(Exec& exec, const KvAppend& args);

// One per instruction level, named by Highway; they agree bit for bit.
namespace N_AVX2 {
void kv_append(Exec& exec, const KvAppend& args);
}
namespace N_AVX3 {
void kv_append(Exec& exec, const KvAppend& args);
}
namespace N_NEON {
void kv_append(Exec& exec, const KvAppend& args);
}

}  // namespace fathom::ops
