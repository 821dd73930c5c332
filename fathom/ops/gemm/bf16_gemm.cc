#include "fathom/ops/gemm/bf16_gemm.h"

#include <algorithm>

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/gemm/bf16_gemm_rows.h"
#include "fathom/ops/gemm/pack_weight.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const Bf16Gemm& args) {
  return cpu_has(kLevel) && is_packed(args.weight.dtype);
}

#if defined(__x86_64__)
bool takes_rounded(const Exec&, const Bf16Gemm& args) {
  return cpu_has(CpuLevel::avx512_bf16) && args.weight.dtype == DType::bf16x32;
}
#endif

// The row that rounds activations stands first of the CPU's: it runs where the feature
// bf16_activations leaves it in.
constexpr KernelRow<Bf16Gemm> kRows[] = {
#if FATHOM_CUDA
    {.name = "gemv",
     .device = Device::Kind::cuda,
     .supports = bf16_gemm_takes_gemv,
     .run = bf16_gemm_gemv},
    {.name = "resident",
     .device = Device::Kind::cuda,
     .supports = bf16_gemm_takes_resident,
     .run = bf16_gemm_resident},
    {.name = "few_sm90",
     .device = Device::Kind::cuda,
     .supports = bf16_gemm_takes_few,
     .run = bf16_gemm_few_sm90},
    {.name = "tile_sm90",
     .device = Device::Kind::cuda,
     .supports = bf16_gemm_takes_tile,
     .run = bf16_gemm_tile_sm90},
    {.name = "cuda_plain",
     .device = Device::Kind::cuda,
     .supports = bf16_gemm_takes_cuda_plain,
     .run = bf16_gemm_cuda_plain},
#endif
#if defined(__x86_64__)
    {.name = "avx512_bf16_rounded", .supports = takes_rounded, .run = N_AVX3_DL::bf16_gemm_rounded},
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::bf16_gemm},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::bf16_gemm},
#elif defined(__aarch64__)
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::bf16_gemm},
#endif
    {.name = "ref", .run = bf16_gemm_ref},
};
constexpr KernelTable<Bf16Gemm> kTable{"bf16_gemm", kRows};

}  // namespace

FewPlan plan_few(int64_t tokens, int64_t outputs, int64_t K, int processors) {
  // Measured on an H100. Few tokens leave halves of a processor room for rings of weights: as many
  // parts as fill three quarters of them, of at least 512 k, and of no more than such a ring bears.
  // Of very few groups each CTA may have a processor.
  const int64_t groups = (outputs + kFewOutputs - 1) / kFewOutputs;
  if (tokens <= 32) {
    if (groups * 6 <= processors / 2) return {.parts = 6, .whole = true};
    const int64_t parts =
        std::max<int64_t>(std::min({int64_t{8}, K / 512, processors * 3 / 2 / groups}), 1);
    if (K / parts <= (tokens <= 16 ? 1536 : 512))
      return {.parts = static_cast<int>(parts), .whole = false};
  }
  // Rings of a whole processor gain most, but clusters of more than two leave an eighth of the
  // processors idle, and three parts gain where they are long alone.
  const int64_t room = processors * 7 / 8;
  if (groups * 4 <= room) return {.parts = 4, .whole = true};
  if (groups * 3 <= room && K > 4096) return {.parts = 3, .whole = true};
  if (groups * 2 <= processors) return {.parts = 2, .whole = true};
  return {.parts = 1, .whole = groups <= processors};
}

const KernelTable<Bf16Gemm>& bf16_gemm_table() {
  return kTable;
}

void bf16_gemm(Exec& exec, const Bf16Gemm& args) {
  Expect(kTable.op, exec.device)
      .tensor("x", args.x, {"M", "K"}, {DType::f32, DType::bf16})
      .tensor(
          "weight",
          args.weight,
          {"Np", "K"},
          {DType::bf16, DType::f16, DType::f32, DType::bf16x32, DType::f16x32, DType::f32x32}
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

Cost cost(const Bf16Gemm& args) {
  const double M = static_cast<double>(args.x.dim(0)), K = static_cast<double>(args.x.dim(1));
  const double N = static_cast<double>(args.y.dim(1));
  return {
      .bytes = static_cast<double>(args.weight.bytes() + args.x.bytes() + args.y.bytes()),
      .flops = 2 * M * N * K,
  };
}

}  // namespace fathom::ops
