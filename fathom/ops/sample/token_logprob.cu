// token_logprob, row cuda_slices.
#include "fathom/ops/sample/logprob_slices.h"
#include "fathom/ops/sample/token_logprob_rows.h"

namespace fathom::ops {

void token_logprob_cuda_slices(Exec& exec, const TokenLogprob& args) {
  logprob_slices(
      exec, "token_logprob", {.logits = args.logits, .token = args.token, .logprob = args.logprob}
  );
}

}  // namespace fathom::ops
