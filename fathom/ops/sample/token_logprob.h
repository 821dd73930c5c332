// token_logprob: logprob[b] = logits[b, token[b]] - ln sum_v exp(logits[b, v]), natural logarithm;
// on the CPU to the bit what sample says of a token that it draws.
//
// Shapes: logits [B, V] f32, read only; token [B] i32 in [0, V); logprob [B] f32. Sums in double.
// B may be 0.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct TokenLogprob {
  Tensor logits;
  Tensor token;
  Tensor logprob;
};

void token_logprob(Exec& exec, const TokenLogprob& args);

const KernelTable<TokenLogprob>& token_logprob_table();
Cost cost(const TokenLogprob& args);

template <class F>
void for_each_tensor(TokenLogprob& args, F f) {
  f("logits", args.logits, Role::in);
  f("token", args.token, Role::in);
  f("logprob", args.logprob, Role::out);
}

}  // namespace fathom::ops
