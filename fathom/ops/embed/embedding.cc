#include "fathom/ops/embed/embedding.h"

#include "fathom/core/expect.h"
#include "fathom/ops/embed/embedding_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<Embedding> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec",
     .device = Device::Kind::cuda,
     .supports = embedding_takes_cuda_vec,
     .run = embedding_cuda_vec},
#endif
    {.name = "ref", .run = embedding_ref},
};
constexpr KernelTable<Embedding> kTable{"embedding", kRows};

}  // namespace

const KernelTable<Embedding>& embedding_table() {
  return kTable;
}

void embedding(Exec& exec, const Embedding& args) {
  Expect(kTable.op, exec.device)
      .tensor("tokens", args.tokens, {"T"}, {DType::i32})
      .tensor("weight", args.weight, {"V", "C"}, {args.weight.dtype})
      .tensor("y", args.y, {"T", "C"}, {DType::f32, DType::bf16});
  kTable.run(exec, args);
}

Cost cost(const Embedding& args) {
  const double T = static_cast<double>(args.tokens.dim(0));
  const double row = static_cast<double>(bytes_of(args.weight.dtype, args.weight.dim(1)));
  return {.bytes = T * (row + 4) + static_cast<double>(args.y.bytes()), .flops = 0};
}

}  // namespace fathom::ops
