#include "fathom/ops/attention/mha_prefill.h"

#include "fathom/base/cpu_features.h"
#include "fathom/ops/attention/attend_plain.h"
#include "fathom/ops/attention/attend_simd.h"
#include "fathom/ops/attention/mha_prefill_rows.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const PagedAttention& args) {
  return cpu_has(kLevel) && attend_simd_takes(args);
}

constexpr KernelRow<PagedAttention> kRows[] = {
#if FATHOM_CUDA
    {.name = "sm90",
     .device = Device::Kind::cuda,
     .supports = mha_prefill_takes_sm90,
     .run = mha_prefill_sm90},
    {.name = "cuda_plain",
     .device = Device::Kind::cuda,
     .supports = attend_plain_takes,
     .run = attend_plain},
#endif
#if defined(__x86_64__)
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::attend},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::attend},
#elif defined(__aarch64__)
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::attend},
#endif
    {.name = "ref", .run = mha_prefill_ref},
};
constexpr KernelTable<PagedAttention> kTable{"mha_prefill", kRows};

}  // namespace

const KernelTable<PagedAttention>& mha_prefill_table() {
  return kTable;
}

void mha_prefill(Exec& exec, const PagedAttention& args) {
  expect_paged_attention(kTable.op, exec, args);
  if (args.rows.kv_len.dim(0) == 0) return;
  kTable.run(exec, args);
}

}  // namespace fathom::ops
