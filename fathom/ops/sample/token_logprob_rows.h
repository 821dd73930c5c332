// The rows of token_logprob's kernel table.
#pragma once

#include "fathom/ops/sample/token_logprob.h"

namespace fathom::ops {

void token_logprob_ref(Exec& exec, const TokenLogprob& args);
void token_logprob_cuda_slices(Exec& exec, const TokenLogprob& args);

}  // namespace fathom::ops
