// The rows of mla_expand's kernel table.
#pragma once

#include "fathom/ops/attention/mla_expand.h"

namespace fathom::ops {

void mla_expand_ref(Exec& exec, const MlaExpand& args);

void mla_expand_cuda_vec(Exec& exec, const MlaExpand& args);

}  // namespace fathom::ops
