#include "fathom/ops/act/silu_mul.h"

#include "fathom/core/expect.h"
#include "fathom/ops/act/silu_mul_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<SiluMul> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = silu_mul_cuda_vec},
#endif
    {.name = "ref", .run = silu_mul_ref},
};
constexpr KernelTable<SiluMul> kTable{"silu_mul", kRows};

}  // namespace

const KernelTable<SiluMul>& silu_mul_table() {
  return kTable;
}

void silu_mul(Exec& exec, const SiluMul& args) {
  Expect(kTable.op, exec.device)
      .tensor("gate", args.gate, {"T", "I"}, {DType::f32, DType::bf16})
      .tensor("up", args.up, {"T", "I"}, {args.gate.dtype})
      .tensor("y", args.y, {"T", "I"}, {args.gate.dtype});
  kTable.run(exec, args);
}

Cost cost(const SiluMul& args) {
  const double n = static_cast<double>(args.y.elements());
  return {.bytes = n * 3 * info(args.y.dtype).block_bytes, .flops = n * 5};
}

}  // namespace fathom::ops
