#include "fathom/ops/quant/fused_quant.h"

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/quant/fused_quant_rows.h"

namespace fathom::ops {
namespace {

bool is_whole(const Exec&, const FusedQuant& args) {
  return args.y.dim(1) % kFp8Block == 0;
}

template <CpuLevel kLevel>
bool supports(const Exec&, const FusedQuant& args) {
  return cpu_has(kLevel) && args.y.dim(1) % kFp8Block == 0;
}

constexpr KernelRow<FusedQuant> kRows[] = {
#if FATHOM_CUDA
    {.name = "cuda_vec", .device = Device::Kind::cuda, .run = fused_quant_cuda_vec},
#endif
#if defined(__x86_64__)
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::fused_quant},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::fused_quant},
#elif defined(__aarch64__)
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::fused_quant},
#endif
    {.name = "apart", .supports = is_whole, .run = fused_quant_apart},
    {.name = "ref", .run = fused_quant_ref},
};
constexpr KernelTable<FusedQuant> kTable{"fused_quant", kRows};

}  // namespace

const KernelTable<FusedQuant>& fused_quant_table() {
  return kTable;
}

void fused_quant(Exec& exec, const FusedQuant& args) {
  Expect expect(kTable.op, exec.device);
  expect.tensor("y", args.y, {"T", "K"}, {DType::f8e4m3})
      .tensor("x", args.x, {"T", "X"}, {DType::f32, DType::bf16})
      .tensor("scale", args.scale, {"G", "T"}, {DType::f32})
      .that(args.eps > 0, "eps > 0");
  const int64_t K = expect.size("K");
  const bool swiglu = args.prologue == FusedQuant::Prologue::swiglu;
  expect.that(args.x.dim(1) == (swiglu ? 2 * K : K), "x has K columns, 2 K with swiglu")
      .that(args.scale.dim(0) == fp8_blocks(K), "scale has a row per 128 columns");
  kTable.run(exec, args);
}

Cost cost(const FusedQuant& args) {
  const double n = static_cast<double>(args.y.elements());
  return {
      .bytes = static_cast<double>(args.x.elements()) * info(args.x.dtype).block_bytes + n +
               4 * static_cast<double>(args.scale.elements()),
      .flops = n * (args.prologue == FusedQuant::Prologue::swiglu ? 8 : 3),
  };
}

}  // namespace fathom::ops
