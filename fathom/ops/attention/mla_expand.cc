#include "fathom/ops/attention/mla_expand.h"

#include "fathom/core/expect.h"
#include "fathom/ops/attention/mla_expand_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<MlaExpand> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = mla_expand_cuda_vec},
#endif
    {.name = "ref", .run = mla_expand_ref},
};
constexpr KernelTable<MlaExpand> kTable{"mla_expand", kRows};

}  // namespace

const KernelTable<MlaExpand>& mla_expand_table() {
  return kTable;
}

void mla_expand(Exec& exec, const MlaExpand& args) {
  const DType dtype = args.kv.dtype;
  Expect expect(kTable.op, exec.device);
  expect.tensor("kv", args.kv, {"S", "W"}, {DType::f32, DType::bf16})
      .tensor("k_rope", args.k_rope, {"S", "R"}, {dtype})
      .tensor("keys", args.keys, {"S", "H", "D"}, {dtype})
      .tensor("values", args.values, {"S", "H", "Dv"}, {dtype})
      .that(
          expect.size("W") ==
              expect.size("H") * (expect.size("D") - expect.size("R") + expect.size("Dv")),
          "kv holds N + Dv values a head"
      )
      .that(args.keys.contiguous() && args.values.contiguous(), "keys and values are contiguous");
  kTable.run(exec, args);
}

Cost cost(const MlaExpand& args) {
  const double n = static_cast<double>(args.keys.elements() + args.values.elements());
  return {.bytes = 2 * n * info(args.kv.dtype).block_bytes, .flops = 0};
}

}  // namespace fathom::ops
