#include "fathom/ops/rope/rope.h"

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/rope/rope_rows.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const Rope& args) {
  return cpu_has(kLevel) && rope_simd_takes(args);
}

constexpr KernelRow<Rope> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = rope_cuda_vec},
#endif
#if defined(__x86_64__)
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::rope},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::rope},
#elif defined(__aarch64__)
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::rope},
#endif
    {.name = "ref", .run = rope_ref},
};
constexpr KernelTable<Rope> kTable{"rope", kRows};

}  // namespace

const KernelTable<Rope>& rope_table() {
  return kTable;
}

void rope(Exec& exec, const Rope& args) {
  Expect(kTable.op, exec.device)
      .tensor("positions", args.positions, {"T"}, {DType::i32})
      .tensor("table", args.table, {"S", "D"}, {DType::f32})
      .tensor("q", args.q, {"T", "H", "D"}, {DType::f32, DType::bf16})
      .tensor("k", args.k, {"T", "Hkv", "D"}, {args.q.dtype})
      .that(args.table.dim(1) % 2 == 0, "D is odd");
  kTable.run(exec, args);
}

Cost cost(const Rope& args) {
  const double n = static_cast<double>(args.q.elements() + args.k.elements());
  return {.bytes = n * 2 * info(args.q.dtype).block_bytes, .flops = n * 3};
}

}  // namespace fathom::ops
