#include "fathom/ops/gemm/gguf_gemm.h"

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/gemm/gguf_gemm_rows.h"
#include "fathom/ops/gemm/pack_weight.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const GgufGemm& args) {
  return cpu_has(kLevel) && is_packed(args.weight.dtype);
}

// The int8 rows stand first: they run where the feature int8_activations leaves them in.
constexpr KernelRow<GgufGemm> kRows[] = {
#if defined(__x86_64__)
    {.name = "avx512_vnni_int8",
     .supports = supports<CpuLevel::avx512_vnni>,
     .run = N_AVX3_DL::gguf_gemm_int8},
    {.name = "avx512_int8", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::gguf_gemm_int8},
    {.name = "avx2_int8", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::gguf_gemm_int8},
    {.name = "avx512_vnni",
     .supports = supports<CpuLevel::avx512_vnni>,
     .run = N_AVX3_DL::gguf_gemm},
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::gguf_gemm},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::gguf_gemm},
#elif defined(__aarch64__)
    {.name = "neon_int8", .supports = supports<CpuLevel::neon>, .run = N_NEON::gguf_gemm_int8},
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::gguf_gemm},
#endif
    {.name = "ref", .run = gguf_gemm_ref},
};
constexpr KernelTable<GgufGemm> kTable{"gguf_gemm", kRows};

}  // namespace

const KernelTable<GgufGemm>& gguf_gemm_table() {
  return kTable;
}

void gguf_gemm(Exec& exec, const GgufGemm& args) {
  Expect(kTable.op, exec.device)
      .tensor("x", args.x, {"M", "K"}, {DType::f32, DType::bf16})
      .tensor(
          "weight",
          args.weight,
          {"Np", "K"},
          {DType::q8_0,
           DType::q4_0,
           DType::q4_1,
           DType::q5_0,
           DType::q5_1,
           DType::q4_k,
           DType::q5_k,
           DType::q6_k,
           DType::q8_0x16,
           DType::q4_0x16,
           DType::q4_1x16,
           DType::q5_0x16,
           DType::q5_1x16,
           DType::q4_kx16,
           DType::q5_kx16,
           DType::q6_kx16}
      )
      .tensor("y", args.y, {"M", "N"}, {DType::f32, DType::bf16})
      .optional("bias", args.bias, {"N"}, {DType::f32, DType::bf16})
      .that(args.x.dim(1) > 0, "K is 0")
      .that(
          args.weight.dim(0) == packed_rows(args.weight.dtype, args.y.dim(1)),
          "weight must have N rows, rounded up to its pack"
      );
  if (args.y.elements() == 0) return;
  kTable.run(exec, args);
}

Cost cost(const GgufGemm& args) {
  const double M = static_cast<double>(args.x.dim(0)), K = static_cast<double>(args.x.dim(1));
  const double N = static_cast<double>(args.y.dim(1));
  return {
      .bytes = static_cast<double>(args.weight.bytes() + args.x.bytes() + args.y.bytes()),
      .flops = 2 * M * N * K,
  };
}

}  // namespace fathom::ops
