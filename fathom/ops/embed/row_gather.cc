#include "fathom/ops/embed/row_gather.h"

#include "fathom/core/expect.h"
#include "fathom/ops/embed/row_gather_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<RowGather> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = row_gather_cuda_vec},
#endif
    {.name = "ref", .run = row_gather_ref},
};
constexpr KernelTable<RowGather> kTable{"row_gather", kRows};

}  // namespace

const KernelTable<RowGather>& row_gather_table() {
  return kTable;
}

void row_gather(Exec& exec, const RowGather& args) {
  Expect(kTable.op, exec.device)
      .tensor("x", args.x, {"T", "C"}, {DType::f32, DType::bf16})
      .tensor("rows", args.rows, {"n"}, {DType::i32})
      .tensor("y", args.y, {"n", "C"}, {args.x.dtype});
  kTable.run(exec, args);
}

Cost cost(const RowGather& args) {
  return {.bytes = 2.0 * static_cast<double>(args.y.bytes() + 2 * args.rows.dim(0)), .flops = 0};
}

}  // namespace fathom::ops
