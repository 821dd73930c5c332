#include "fathom/ops/act/silu_mul.h"

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/act/silu_mul_rows.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const SiluMul&) {
  return cpu_has(kLevel);
}

constexpr KernelRow<SiluMul> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = silu_mul_cuda_vec},
#endif
#if defined(__x86_64__)
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::silu_mul},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::silu_mul},
#elif defined(__aarch64__)
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::silu_mul},
#endif
    {.name = "ref", .run = silu_mul_ref},
};
constexpr KernelTable<SiluMul> kTable{"silu_mul", kRows};

}  // namespace

const KernelTable<SiluMul>& silu_mul_table() {
  return kTable;
}

void silu_mul(Exec& exec, const SiluMul& args) {
  Expect(kTable.op, exec.device)
      .tensor("gate", args.gate, {"T", "I"}, {DType::f32, DType::bf16})
      .tensor("up", args.up, {"T", "I"}, {args.gate.dtype})
      .tensor("y", args.y, {"T", "I"}, {args.gate.dtype});
  kTable.run(exec, args);
}

Cost cost(const SiluMul& args) {
  const double n = static_cast<double>(args.y.elements());
  return {.bytes = n * 3 * info(args.y.dtype).block_bytes, .flops = n * 5};
}

}  // namespace fathom::ops
