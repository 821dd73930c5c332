#include "fathom/ops/norm/rms_norm.h"

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/norm/rms_norm_rows.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const RmsNorm&) {
  return cpu_has(kLevel);
}

constexpr KernelRow<RmsNorm> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = rms_norm_cuda_vec},
#endif
#if defined(__x86_64__)
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::rms_norm},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::rms_norm},
#elif defined(__aarch64__)
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::rms_norm},
#endif
    {.name = "ref", .run = rms_norm_ref},
};
constexpr KernelTable<RmsNorm> kTable{"rms_norm", kRows};

}  // namespace

const KernelTable<RmsNorm>& rms_norm_table() {
  return kTable;
}

void rms_norm(Exec& exec, const RmsNorm& args) {
  Expect(kTable.op, exec.device)
      .tensor("x", args.x, {"T", "C"}, {DType::f32, DType::bf16})
      .tensor("weight", args.weight, {"C"}, {DType::f32, DType::bf16})
      .optional("residual", args.residual, {"T", "C"}, {args.x.dtype})
      .tensor("y", args.y, {"T", "C"}, {args.x.dtype});
  kTable.run(exec, args);
}

Cost cost(const RmsNorm& args) {
  const double n = static_cast<double>(args.x.elements());
  const double streams = args.residual.defined() ? 4 : 2;
  return {
      .bytes =
          n * streams * info(args.x.dtype).block_bytes + static_cast<double>(args.weight.bytes()),
      .flops = n * (args.residual.defined() ? 5 : 4),
  };
}

}  // namespace fathom::ops
