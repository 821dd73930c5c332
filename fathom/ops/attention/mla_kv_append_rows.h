// The rows of mla_kv_append's kernel table.
#pragma once

#include "fathom/ops/attention/mla_kv_append.h"

namespace fathom::ops {

void mla_kv_append_ref(Exec& exec, const MlaKvAppend& args);

}  // namespace fathom::ops
