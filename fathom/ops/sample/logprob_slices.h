// Logarithms of the law that rows of logits give, on a GPU: of one token a row, and of the
// likeliest tokens. What token_logprob's row and sample's share.
#pragma once

#include "fathom/core/exec.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct LogprobSlices {
  Tensor logits;            // [B, V] f32
  Tensor token;             // [B] i32
  Tensor logprob;           // [B] f32 of `token`; undefined: not wanted
  Tensor top_token = {};    // [B, k] i32, the likeliest first; undefined: not wanted
  Tensor top_logprob = {};  // [B, k] f32
};

// Takes 8 (k + 1) bytes of workspace for every row and 4096 tokens.
void logprob_slices(Exec& exec, std::string_view op, const LogprobSlices& args);

}  // namespace fathom::ops
