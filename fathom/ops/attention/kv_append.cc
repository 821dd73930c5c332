#include "fathom/ops/attention/kv_append.h"

#include "fathom/ops/attention/kv_append_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<KvAppend> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = kv_append_cuda_vec},
#endif
    {.name = "ref", .run = kv_append_ref},
};
constexpr KernelTable<KvAppend> kTable{"kv_append", kRows};

}  // namespace

const KernelTable<KvAppend>& kv_append_table() {
  return kTable;
}

void kv_append(Exec& exec, const KvAppend& args) {
  Expect expect(kTable.op, exec.device);
  expect_rows(expect, args.rows);
  expect.tensor("k", args.k, {"T", "Hkv", "D"}, {DType::f32, DType::bf16})
      .tensor("v", args.v, {"T", "Hkv", "Dv"}, {args.k.dtype})
      .tensor("keys", args.keys, {"P", "Hkv", "p", "D"}, {DType::f32, DType::f16, DType::bf16})
      .tensor("values", args.values, {"P", "Hkv", "p", "Dv"}, {args.keys.dtype});
  kTable.run(exec, args);
}

Cost cost(const KvAppend& args) {
  const double n = static_cast<double>(args.k.elements() + args.v.elements());
  const double bytes = info(args.k.dtype).block_bytes + info(args.keys.dtype).block_bytes;
  return {.bytes = n * bytes, .flops = 0};
}

}  // namespace fathom::ops
