#include "fathom/ops/attention/merge_states.h"

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/attention/merge_states_rows.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const MergeStates&) {
  return cpu_has(kLevel);
}

constexpr KernelRow<MergeStates> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = merge_states_cuda_vec},
#endif
#if defined(__x86_64__)
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::merge_states},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::merge_states},
#elif defined(__aarch64__)
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::merge_states},
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
  const double logarithms = static_cast<double>(args.lse.elements());
  return {.bytes = 3 * (n * info(args.y.dtype).block_bytes + 4 * logarithms), .flops = 3 * n};
}

}  // namespace fathom::ops
