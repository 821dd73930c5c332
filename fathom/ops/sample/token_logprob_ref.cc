#include <algorithm>
#include <cmath>

#include "fathom/ops/sample/token_logprob_rows.h"

namespace fathom::ops {

void token_logprob_ref(Exec& exec, const TokenLogprob& args) {
  const int64_t V = args.logits.dim(1);
  exec.parallel_for(args.logits.dim(0), 1, [&](Range rows) {
    for (int64_t b = rows.begin; b < rows.end; ++b) {
      const float* logits = args.logits.row(b).as<float>();
      const double largest = *std::max_element(logits, logits + V);
      double sum = 0;
      for (int64_t v = 0; v < V; ++v) sum += std::exp(static_cast<double>(logits[v]) - largest);
      const double of_token = logits[args.token.as<int32_t>()[b]];
      args.logprob.as<float>()[b] = static_cast<float>(of_token - (largest + std::log(sum)));
    }
  });
}

}  // namespace fathom::ops
