// The rows of mla_gather's kernel table.
#pragma once

#include "fathom/ops/attention/mla_gather.h"

namespace fathom::ops {

void mla_gather_ref(Exec& exec, const MlaGather& args);

void mla_gather_cuda_vec(Exec& exec, const MlaGather& args);

}  // namespace fathom::ops
