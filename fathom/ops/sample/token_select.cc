#include "fathom/ops/sample/token_select.h"

#include "fathom/core/expect.h"
#include "fathom/ops/sample/token_select_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<TokenSelect> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = token_select_cuda_vec},
#endif
    {.name = "ref", .run = token_select_ref},
};
constexpr KernelTable<TokenSelect> kTable{"token_select", kRows};

}  // namespace

const KernelTable<TokenSelect>& token_select_table() {
  return kTable;
}

void token_select(Exec& exec, const TokenSelect& args) {
  Expect(kTable.op, exec.device)
      .tensor("source", args.source, {"n"}, {DType::i32})
      .tensor("index", args.index, {"m"}, {DType::i32})
      .tensor("y", args.y, {"m"}, {DType::i32});
  kTable.run(exec, args);
}

Cost cost(const TokenSelect& args) {
  return {.bytes = 12 * static_cast<double>(args.y.dim(0)), .flops = 0};
}

}  // namespace fathom::ops
