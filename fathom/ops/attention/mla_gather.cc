#include "fathom/ops/attention/mla_gather.h"

#include "fathom/core/expect.h"
#include "fathom/ops/attention/mla_gather_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<MlaGather> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = mla_gather_cuda_vec},
#endif
    {.name = "ref", .run = mla_gather_ref},
};
constexpr KernelTable<MlaGather> kTable{"mla_gather", kRows};

}  // namespace

const KernelTable<MlaGather>& mla_gather_table() {
  return kTable;
}

void mla_gather(Exec& exec, const MlaGather& args) {
  Expect expect(kTable.op, exec.device);
  expect_rows(expect, args.rows);
  expect.tensor("from", args.from, {"B"}, {DType::i32})
      .tensor("begin", args.begin, {"B+1"}, {DType::i32})
      .tensor("kv", args.kv, {"P", "p", "row"}, {DType::f32, DType::bf16, DType::u8})
      .tensor("latent", args.latent, {"S", "L"}, {DType::f32, DType::bf16})
      .tensor("k_rope", args.k_rope, {"S", "R"}, {args.latent.dtype});
  kTable.run(exec, args);
}

Cost cost(const MlaGather& args) {
  const double rows = static_cast<double>(args.latent.dim(0));
  const double values = static_cast<double>(args.latent.dim(1) + args.k_rope.dim(1));
  const double read = static_cast<double>(args.kv.dim(2)) * info(args.kv.dtype).block_bytes;
  return {.bytes = rows * (read + values * info(args.latent.dtype).block_bytes), .flops = 0};
}

}  // namespace fathom::ops
