#include "fathom/ops/norm/rms_norm.h"

#include "fathom/core/expect.h"
#include "fathom/ops/norm/rms_norm_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<RmsNorm> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = rms_norm_cuda_vec},
#endif
    {.name = "ref", .run = rms_norm_ref},
};
constexpr KernelTable<RmsNorm> kTable{"rms_norm", kRows};

}  // namespace

const KernelTable<RmsNorm>& rms_norm_table() {
  return kTable;
}

void rms_norm(Exec& exec, const RmsNorm& args) {
  Expect(kTable.op, exec.device)
      .tensor("x", args.x, {"T", "C"}, {DType::f32, DType::bf16})
      .tensor("weight", args.weight, {"C"}, {DType::f32, DType::bf16})
      .optional("residual", args.residual, {"T", "C"}, {args.x.dtype})
      .tensor("y", args.y, {"T", "C"}, {args.x.dtype});
  kTable.run(exec, args);
}

Cost cost(const RmsNorm& args) {
  const double n = static_cast<double>(args.x.elements());
  const double streams = args.residual.defined() ? 4 : 2;
  return {
      .bytes =
          n * streams * info(args.x.dtype).block_bytes + static_cast<double>(args.weight.bytes()),
      .flops = n * (args.residual.defined() ? 5 : 4),
  };
}

}  // namespace fathom::ops
