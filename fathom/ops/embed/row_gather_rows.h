// The rows of row_gather's kernel table.
#pragma once

#include "fathom/ops/embed/row_gather.h"

namespace fathom::ops {

void row_gather_ref(Exec& exec, const RowGather& args);
void row_gather_cuda_vec(Exec& exec, const RowGather& args);

}  // namespace fathom::ops
