#include "fathom/ops/attention/kv_append.h"

#include "fathom/base/cpu_features.h"
#include "fathom/ops/attention/kv_append_rows.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const KvAppend&) {
  return cpu_has(kLevel);
}

constexpr KernelRow<KvAppend> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = kv_append_cuda_vec},
#endif
#if defined(__x86_64__)
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::kv_append},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::kv_append},
#elif defined(__aarch64__)
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::kv_append},
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
