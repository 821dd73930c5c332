#include "fathom/ops/attention/gqa_decode.h"

#include "fathom/base/cpu_features.h"
#include "fathom/ops/attention/attend_plain.h"
#include "fathom/ops/attention/attend_simd.h"
#include "fathom/ops/attention/gqa_decode_rows.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const PagedAttention& args) {
  return cpu_has(kLevel) && attend_simd_takes(args);
}

constexpr KernelRow<PagedAttention> kRows[] = {
#if FATHOM_CUDA
    {.name = "split",
     .device = Device::Kind::cuda,
     .supports = gqa_decode_takes_split,
     .run = gqa_decode_split},
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
    {.name = "ref", .run = gqa_decode_ref},
};
constexpr KernelTable<PagedAttention> kTable{"gqa_decode", kRows};

}  // namespace

const KernelTable<PagedAttention>& gqa_decode_table() {
  return kTable;
}

void gqa_decode(Exec& exec, const PagedAttention& args) {
  expect_paged_attention(kTable.op, exec, args);
  if (args.rows.kv_len.dim(0) == 0) return;
  kTable.run(exec, args);
}

}  // namespace fathom::ops
