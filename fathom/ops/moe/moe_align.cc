#include "fathom/ops/moe/moe_align.h"

#include "fathom/core/expect.h"
#include "fathom/ops/moe/moe_align_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<MoeAlign> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_sort",
     .device = Device::Kind::cuda,
     .supports = moe_align_takes_cuda_sort,
     .run = moe_align_cuda_sort},
#endif
    {.name = "counted", .run = moe_align_counted},
    {.name = "ref", .run = moe_align_ref},
};
constexpr KernelTable<MoeAlign> kTable{"moe_align", kRows};

}  // namespace

const KernelTable<MoeAlign>& moe_align_table() {
  return kTable;
}

void moe_align(Exec& exec, const MoeAlign& args) {
  Expect expect(kTable.op, exec.device);
  expect.tensor("ids", args.ids, {"T", "k"}, {DType::i32})
      .tensor("slots", args.slots, {"Tk"}, {DType::i32})
      .tensor("places", args.places, {"Tk"}, {DType::i32})
      .tensor("begin", args.begin, {"E+1"}, {DType::i32})
      .that(args.slots.dim(0) == args.ids.dim(0) * args.ids.dim(1), "a place for every slot")
      .that(args.begin.dim(0) > 1, "there are experts");
  kTable.run(exec, args);
}

MoeAlign moe_align(Exec& exec, const Tensor& ids, int64_t experts) {
  const auto numbers = [&](int64_t n) { return exec.workspace->alloc(DType::i32, {n}); };
  const MoeAlign align{
      .ids = ids,
      .slots = numbers(ids.elements()),
      .places = numbers(ids.elements()),
      .begin = numbers(experts + 1),
  };
  moe_align(exec, align);
  return align;
}

Cost cost(const MoeAlign& args) {
  return {.bytes = 4 * (4 * static_cast<double>(args.slots.dim(0)) + 2), .flops = 0};
}

}  // namespace fathom::ops
