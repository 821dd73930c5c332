#include "fathom/ops/gemm/head_gemm.h"

#include "fathom/core/expect.h"
#include "fathom/ops/gemm/head_gemm_rows.h"
#include "fathom/ops/gemm/pack_weight.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<HeadGemm> kRows[] = {
#if FATHOM_CUDA
    {.name = "mma",
     .device = Device::Kind::cuda,
     .supports = head_gemm_takes_mma,
     .run = head_gemm_mma},
    {.name = "cuda_plain",
     .device = Device::Kind::cuda,
     .supports = head_gemm_takes_cuda_plain,
     .run = head_gemm_cuda_plain},
#endif
    {.name = "by_head", .run = head_gemm_by_head},
    {.name = "ref", .run = head_gemm_ref},
};
constexpr KernelTable<HeadGemm> kTable{"head_gemm", kRows};

}  // namespace

const KernelTable<HeadGemm>& head_gemm_table() {
  return kTable;
}

void head_gemm(Exec& exec, const HeadGemm& args) {
  const DType weight = args.weight.dtype;
  Expect expect(kTable.op, exec.device);
  expect.tensor("x", args.x, {"T", "H", "K"}, {DType::f32, DType::bf16})
      .tensor(
          "weight",
          args.weight,
          {"HN", "K"},
          {DType::bf16, DType::f16, DType::f32, DType::bf16x32, DType::f16x32, DType::f32x32}
      )
      .tensor("y", args.y, {"T", "H", "N"}, {DType::f32, DType::bf16})
      .that(expect.size("HN") == expect.size("H") * expect.size("N"), "weight has N rows a head")
      .that(
          packed_rows(weight, expect.size("N")) == expect.size("N"),
          "a head's rows are whole groups of the pack"
      )
      .that(args.weight.contiguous(), "weight is contiguous");
  if (args.y.elements() == 0) return;
  kTable.run(exec, args);
}

Cost cost(const HeadGemm& args) {
  return {
      .bytes = static_cast<double>(args.weight.bytes() + args.x.bytes() + args.y.bytes()),
      .flops = 2 * static_cast<double>(args.y.elements() * args.x.dim(2)),
  };
}

}  // namespace fathom::ops
