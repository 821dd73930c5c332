#include "fathom/ops/gemm/w8a8_gemm.h"

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/w8a8_gemm_rows.h"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/quant/int8_rows.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel, DType... kForms>
bool supports(const Exec&, const W8a8Gemm& args) {
  return cpu_has(kLevel) && ((args.w.data.dtype == kForms) || ...);
}

using Run = void (*)(Exec& exec, const W8a8Gemm& args);

template <Run kInt8, Run kFp8>
void by_form(Exec& exec, const W8a8Gemm& args) {
  args.w.data.dtype == DType::i8x16 ? kInt8(exec, args) : kFp8(exec, args);
}

constexpr KernelRow<W8a8Gemm> kRows[] = {
#if FATHOM_CUDA
    {.name = "skinny",
     .device = Device::Kind::cuda,
     .supports = w8a8_gemm_takes_skinny,
     .run = w8a8_gemm_skinny},
    {.name = "tile_sm90",
     .device = Device::Kind::cuda,
     .supports = w8a8_gemm_takes_tile,
     .run = w8a8_gemm_tile_sm90},
#endif
#if defined(__x86_64__)
    {.name = "avx512_vnni",
     .supports = supports<CpuLevel::avx512_vnni, DType::i8x16>,
     .run = N_AVX3_DL::w8a8_gemm},
    {.name = "avx512_bf16",
     .supports = supports<CpuLevel::avx512_bf16, DType::f8e4m3x32>,
     .run = N_AVX3_DL::w8a8_gemm_fp8},
    {.name = "avx512",
     .supports = supports<CpuLevel::avx512, DType::i8x16, DType::f8e4m3x32>,
     .run = by_form<N_AVX3::w8a8_gemm, N_AVX3::w8a8_gemm_fp8>},
    {.name = "avx2",
     .supports = supports<CpuLevel::avx2, DType::i8x16, DType::f8e4m3x32>,
     .run = by_form<N_AVX2::w8a8_gemm, N_AVX2::w8a8_gemm_fp8>},
#elif defined(__aarch64__)
    {.name = "neon",
     .supports = supports<CpuLevel::neon, DType::i8x16, DType::f8e4m3x32>,
     .run = by_form<N_NEON::w8a8_gemm, N_NEON::w8a8_gemm_fp8>},
#endif
    {.name = "ref", .run = w8a8_gemm_ref},
};
constexpr KernelTable<W8a8Gemm> kTable{"w8a8_gemm", kRows};

}  // namespace

const KernelTable<W8a8Gemm>& w8a8_gemm_table() {
  return kTable;
}

void w8a8_gemm(Exec& exec, const W8a8Gemm& args) {
  const int64_t N = args.y.dim(-1), K = args.x.dim(-1);
  const DType form = args.w.data.dtype;
  const bool panels = form == DType::f8e4m3x32;
  const bool tiles = form == DType::i8x64 || form == DType::f8e4m3x64;
  const int64_t rows = tiles ? tiled_rows(N) : packed_rows(form, N);
  Expect(kTable.op, exec.device)
      .tensor("x", args.x, {"M", "K"}, {DType::f32, DType::bf16})
      .tensor(
          "w",
          args.w.data,
          {"Np", "K"},
          {DType::i8, DType::i8x16, DType::i8x64, DType::f8e4m3, DType::f8e4m3x32, DType::f8e4m3x64}
      )
      .tensor("w_scale", args.w.scale, {"N"}, {DType::f32})
      .optional("bias", args.bias, {"N"}, {DType::f32, DType::bf16})
      .tensor("y", args.y, {"M", "N"}, {DType::f32, DType::bf16})
      .that(K > 0 && K <= kInt8MostK, "K is 1 to 2^17")
      .that(!panels || K % kFp8Block == 0, "K is a multiple of 128 where f8e4m3 is packed")
      .that(args.w.data.dim(0) == rows, "w has the rows of y's columns, rounded up to its form");
  if (args.y.elements() == 0) return;
  kTable.run(exec, args);
}

Cost cost(const W8a8Gemm& args) {
  const auto M = static_cast<double>(args.x.dim(0));
  const auto K = static_cast<double>(args.x.dim(1));
  const auto N = static_cast<double>(args.y.dim(1));
  return {
      .bytes = N * K + 4 * N + static_cast<double>(args.x.bytes() + args.y.bytes()),
      .flops = 2 * M * N * K,
  };
}

}  // namespace fathom::ops
