#include "fathom/ops/gemm/head_gemm.h"

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/gemm/head_gemm_rows.h"
#include "fathom/ops/gemm/pack_weight.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool takes_codes(const Exec&, const HeadGemm& args) {
  return cpu_has(kLevel) && args.weight.dtype == DType::f8e4m3x32;
}

bool has_float_weights(const Exec&, const HeadGemm& args) {
  return !args.weight_scale.defined();
}

constexpr KernelRow<HeadGemm> kRows[] = {
#if FATHOM_CUDA
    {.name = "mma",
     .device = Device::Kind::cuda,
     .supports = head_gemm_takes_mma,
     .run = head_gemm_mma},
    {.name = "cuda_plain",
     .device = Device::Kind::cuda,
     .supports = head_gemm_takes_cuda_plain,
     .run = head_gemm_cuda_plain},
#endif
#if defined(__x86_64__)
    // Runs where the feature bf16_activations leaves it in.
    {.name = "avx512_bf16_rounded",
     .supports = takes_codes<CpuLevel::avx512_bf16>,
     .run = N_AVX3_DL::head_gemm_fp8_rounded},
    {.name = "avx512_bf16",
     .supports = takes_codes<CpuLevel::avx512_bf16>,
     .run = N_AVX3_DL::head_gemm_fp8},
    {.name = "avx512", .supports = takes_codes<CpuLevel::avx512>, .run = N_AVX3::head_gemm_fp8},
    {.name = "avx2", .supports = takes_codes<CpuLevel::avx2>, .run = N_AVX2::head_gemm_fp8},
#elif defined(__aarch64__)
    {.name = "neon", .supports = takes_codes<CpuLevel::neon>, .run = N_NEON::head_gemm_fp8},
#endif
    {.name = "by_head", .supports = has_float_weights, .run = head_gemm_by_head},
    {.name = "ref", .run = head_gemm_ref},
};
constexpr KernelTable<HeadGemm> kTable{"head_gemm", kRows};

}  // namespace

const KernelTable<HeadGemm>& head_gemm_table() {
  return kTable;
}

void head_gemm(Exec& exec, const HeadGemm& args) {
  const DType weight = args.weight.dtype;
  Expect expect(kTable.op, exec.device);
  expect.tensor("x", args.x, {"T", "H", "K"}, {DType::f32, DType::bf16})
      .tensor(
          "weight",
          args.weight,
          {"HN", "K"},
          {DType::bf16,
           DType::f16,
           DType::f32,
           DType::bf16x32,
           DType::f16x32,
           DType::f32x32,
           DType::f8e4m3,
           DType::f8e4m3x32}
      )
      .optional("weight_scale", args.weight_scale, {"HN/128", "K/128"}, {DType::f32})
      .tensor("y", args.y, {"T", "H", "N"}, {DType::f32, DType::bf16})
      .that(expect.size("HN") == expect.size("H") * expect.size("N"), "weight has N rows a head")
      .that(
          packed_rows(weight, expect.size("N")) == expect.size("N"),
          "a head's rows are whole groups of the pack"
      )
      .that(args.weight.contiguous(), "weight is contiguous");
  const bool codes = weight == DType::f8e4m3 || weight == DType::f8e4m3x32;
  expect.that(args.weight_scale.defined() == codes, "FP8 weights have scales, others none");
  if (codes) {
    const int64_t N = expect.size("N"), K = expect.size("K");
    expect.that(N % 128 == 0 && K % 128 == 0, "FP8 weights are whole blocks")
        .that(args.weight_scale.dim(0) == args.weight.dim(0) / 128, "a row of scales per 128 rows")
        .that(args.weight_scale.dim(1) == K / 128, "a scale per 128 k");
  }
  if (args.y.elements() == 0) return;
  kTable.run(exec, args);
}

Cost cost(const HeadGemm& args) {
  return {
      .bytes = static_cast<double>(args.weight.bytes() + args.x.bytes() + args.y.bytes()),
      .flops = 2 * static_cast<double>(args.y.elements() * args.x.dim(2)),
  };
}

}  // namespace fathom::ops
