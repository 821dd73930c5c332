#include "fathom/ops/sample/token_logprob.h"

#include "fathom/core/expect.h"
#include "fathom/ops/sample/token_logprob_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<TokenLogprob> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_slices", .device = Device::Kind::cuda, .run = token_logprob_cuda_slices},
#endif
    {.name = "ref", .run = token_logprob_ref},
};
constexpr KernelTable<TokenLogprob> kTable{"token_logprob", kRows};

}  // namespace

const KernelTable<TokenLogprob>& token_logprob_table() {
  return kTable;
}

void token_logprob(Exec& exec, const TokenLogprob& args) {
  Expect(kTable.op, exec.device)
      .tensor("logits", args.logits, {"B", "V"}, {DType::f32})
      .tensor("token", args.token, {"B"}, {DType::i32})
      .tensor("logprob", args.logprob, {"B"}, {DType::f32});
  kTable.run(exec, args);
}

Cost cost(const TokenLogprob& args) {
  const auto values = static_cast<double>(args.logits.dim(0) * args.logits.dim(1));
  return {.bytes = 4 * values, .flops = 2 * values};
}

}  // namespace fathom::ops
