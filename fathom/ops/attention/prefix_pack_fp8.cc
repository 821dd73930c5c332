#include "fathom/ops/attention/prefix_pack_fp8.h"

#include "fathom/core/expect.h"
#include "fathom/ops/attention/prefix_pack_fp8_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<PrefixPackFp8> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = prefix_pack_fp8_cuda_vec},
#endif
    {.name = "ref", .run = prefix_pack_fp8_ref},
};
constexpr KernelTable<PrefixPackFp8> kTable{"prefix_pack_fp8", kRows};

}  // namespace

const KernelTable<PrefixPackFp8>& prefix_pack_fp8_table() {
  return kTable;
}

void prefix_pack_fp8(Exec& exec, const PrefixPackFp8& args) {
  Expect expect(kTable.op, exec.device);
  expect.tensor("kv", args.kv, {"S", "W"}, {DType::f32, DType::bf16})
      .tensor("k_rope", args.k_rope, {"S", "R"}, {args.kv.dtype})
      .tensor("keys", args.keys, {"S", "H", "D"}, {DType::f8e4m3})
      .tensor("values", args.values, {"S", "H", "Dv"}, {DType::f8e4m3})
      .that(
          expect.size("W") ==
              expect.size("H") * (expect.size("D") - expect.size("R") + expect.size("Dv")),
          "kv holds N + Dv values a head"
      )
      .that(args.keys.contiguous() && args.values.contiguous(), "keys and values are contiguous");
  kTable.run(exec, args);
}

Cost cost(const PrefixPackFp8& args) {
  const double out = static_cast<double>(args.keys.elements() + args.values.elements());
  const double in = static_cast<double>(args.kv.elements() + args.k_rope.elements());
  return {.bytes = in * info(args.kv.dtype).block_bytes + out, .flops = out};
}

}  // namespace fathom::ops
