#include "fathom/ops/norm/qk_norm.h"

#include "fathom/core/expect.h"
#include "fathom/ops/norm/qk_norm_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<QkNorm> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec",
     .device = Device::Kind::cuda,
     .supports = qk_norm_takes_cuda_vec,
     .run = qk_norm_cuda_vec},
#endif
    {.name = "ref", .run = qk_norm_ref},
};
constexpr KernelTable<QkNorm> kTable{"qk_norm", kRows};

}  // namespace

const KernelTable<QkNorm>& qk_norm_table() {
  return kTable;
}

void qk_norm(Exec& exec, const QkNorm& args) {
  Expect(kTable.op, exec.device)
      .tensor("q", args.q, {"T", "H", "D"}, {DType::f32, DType::bf16})
      .tensor("k", args.k, {"T", "Hkv", "D"}, {args.q.dtype})
      .tensor("q_weight", args.q_weight, {"D"}, {DType::f32, DType::bf16})
      .tensor("k_weight", args.k_weight, {"D"}, {DType::f32, DType::bf16});
  kTable.run(exec, args);
}

Cost cost(const QkNorm& args) {
  const double n = static_cast<double>(args.q.elements() + args.k.elements());
  return {.bytes = n * 2 * info(args.q.dtype).block_bytes, .flops = n * 4};
}

}  // namespace fathom::ops
