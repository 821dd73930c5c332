// The rows of rope's kernel table.
#pragma once

#include "fathom/ops/rope/rope.h"

namespace fathom::ops {

void rope_ref(Exec& exec, const Rope& args);
void rope_cuda_vec(Exec& exec, const Rope& args);

}  // namespace fathom::ops
