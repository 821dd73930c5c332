#include "fathom/ops/attention/rope_append.h"

#include "fathom/ops/attention/rope_append_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<RopeAppend> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec",
     .device = Device::Kind::cuda,
     .supports = rope_append_takes_cuda_vec,
     .run = rope_append_cuda_vec},
    {.name = "cuda_parts", .device = Device::Kind::cuda, .run = rope_append_parts},
#endif
    {.name = "parts", .run = rope_append_parts},
    {.name = "ref", .run = rope_append_ref},
};
constexpr KernelTable<RopeAppend> kTable{"rope_append", kRows};

}  // namespace

const KernelTable<RopeAppend>& rope_append_table() {
  return kTable;
}

void rope_append(Exec& exec, const RopeAppend& args) {
  Expect expect(kTable.op, exec.device);
  expect_rows(expect, args.rows);
  expect.tensor("positions", args.positions, {"T"}, {DType::i32})
      .tensor("table", args.table, {"S", "D"}, {DType::f32})
      .tensor("q", args.q, {"T", "H", "D"}, {DType::f32, DType::bf16})
      .tensor("k", args.k, {"T", "Hkv", "D"}, {args.q.dtype})
      .tensor("v", args.v, {"T", "Hkv", "Dv"}, {args.q.dtype})
      .tensor("keys", args.keys, {"P", "Hkv", "p", "D"}, {DType::f32, DType::f16, DType::bf16})
      .tensor("values", args.values, {"P", "Hkv", "p", "Dv"}, {args.keys.dtype})
      .that(args.table.dim(1) % 2 == 0, "D is odd");
  kTable.run(exec, args);
}

Cost cost(const RopeAppend& args) {
  const double q = static_cast<double>(args.q.elements()),
               k = static_cast<double>(args.k.elements());
  const double v = static_cast<double>(args.v.elements());
  const double x = info(args.q.dtype).block_bytes, cache = info(args.keys.dtype).block_bytes;
  return {.bytes = 2 * (q + k) * x + v * x + (k + v) * cache, .flops = 3 * (q + k)};
}

}  // namespace fathom::ops
