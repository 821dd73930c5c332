#include "fathom/ops/norm/rms_norm_quant.h"

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/norm/rms_norm_quant_rows.h"
#include "fathom/ops/quant/fp8_blocks.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const RmsNormQuant&) {
  return cpu_has(kLevel);
}

constexpr KernelRow<RmsNormQuant> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec",
     .device = Device::Kind::cuda,
     .supports = rms_norm_quant_takes_cuda_vec,
     .run = rms_norm_quant_cuda_vec},
    {.name = "cuda_parts", .device = Device::Kind::cuda, .run = rms_norm_quant_parts},
#endif
#if defined(__x86_64__)
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::rms_norm_quant},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::rms_norm_quant},
#elif defined(__aarch64__)
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::rms_norm_quant},
#endif
    {.name = "parts", .run = rms_norm_quant_parts},
    {.name = "ref", .run = rms_norm_quant_ref},
};
constexpr KernelTable<RmsNormQuant> kTable{"rms_norm_quant", kRows};

}  // namespace

const KernelTable<RmsNormQuant>& rms_norm_quant_table() {
  return kTable;
}

void rms_norm_quant(Exec& exec, const RmsNormQuant& args) {
  Expect expect(kTable.op, exec.device);
  expect.tensor("x", args.x, {"T", "C"}, {DType::f32, DType::bf16})
      .tensor("weight", args.weight, {"C"}, {DType::f32, DType::bf16})
      .optional("residual", args.residual, {"T", "C"}, {args.x.dtype})
      .tensor("y", args.y, {"T", "C"}, {DType::f8e4m3})
      .tensor("scale", args.scale, {"G", "T"}, {DType::f32});
  const int64_t C = expect.size("C");
  expect.that(C % kFp8Block == 0, "C is a multiple of 128")
      .that(expect.size("G") == fp8_blocks(C), "scale has a row per 128 columns")
      .that(args.group_eps > 0, "group_eps > 0");
  kTable.run(exec, args);
}

Cost cost(const RmsNormQuant& args) {
  const double n = static_cast<double>(args.x.elements());
  const double streams = args.residual.defined() ? 3 : 1;
  return {
      .bytes = n * (streams * info(args.x.dtype).block_bytes + 1) +
               static_cast<double>(args.weight.bytes()) +
               4 * static_cast<double>(args.scale.elements()),
      .flops = n * (args.residual.defined() ? 8 : 7),
  };
}

}  // namespace fathom::ops
