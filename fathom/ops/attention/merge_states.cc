#include "fathom/ops/attention/merge_states.h"

#include "fathom/core/expect.h"
#include "fathom/ops/attention/merge_states_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<MergeStates> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = merge_states_cuda_vec},
#endif
    {.name = "ref", .run = merge_states_ref},
};
constexpr KernelTable<MergeStates> kTable{"merge_states", kRows};

}  // namespace

const KernelTable<MergeStates>& merge_states_table() {
  return kTable;
}

void merge_states(Exec& exec, const MergeStates& args) {
  Expect(kTable.op, exec.device)
      .tensor("y", args.y, {"T", "H", "D"}, {DType::f32, DType::bf16})
      .tensor("lse", args.lse, {"T", "H"}, {DType::f32})
      .tensor("other", args.other, {"T", "H", "D"}, {args.y.dtype})
      .tensor("other_lse", args.other_lse, {"T", "H"}, {DType::f32});
  kTable.run(exec, args);
}

Cost cost(const MergeStates& args) {
  const double n = static_cast<double>(args.y.elements());
  return {.bytes = 3 * n * info(args.y.dtype).block_bytes, .flops = 3 * n};
}

}  // namespace fathom::ops
