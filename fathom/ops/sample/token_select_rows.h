// The rows of token_select's kernel table.
#pragma once

#include "fathom/ops/sample/token_select.h"

namespace fathom::ops {

void token_select_ref(Exec& exec, const TokenSelect& args);
void token_select_cuda_vec(Exec& exec, const TokenSelect& args);

}  // namespace fathom::ops
