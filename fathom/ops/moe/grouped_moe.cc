#include "fathom/ops/moe/grouped_moe.h"

#include <algorithm>
#include <vector>

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/moe/grouped_moe_rows.h"
#include "fathom/ops/quant/fp8_blocks.h"

namespace fathom::ops {
namespace {

bool is_tiled(DType dtype) {
  return dtype == DType::bf16x64 || dtype == DType::f8e4m3x64 || dtype == DType::i8x64;
}

template <CpuLevel kLevel>
bool takes_few_fp8(const Exec&, const GroupedMoe& args) {
  return cpu_has(kLevel) && args.gate_up.data.dtype == DType::f8e4m3x32 &&
         !has_channel_scales(args.gate_up) && args.quantise_activations &&
         args.x.dtype == DType::f32 && args.x.dim(0) <= kMoeFewTokens;
}

template <CpuLevel kLevel>
bool takes_few_int8(const Exec&, const GroupedMoe& args) {
  return cpu_has(kLevel) && args.gate_up.data.dtype == DType::i8x16 && args.x.dtype == DType::f32 &&
         args.x.dim(0) <= kMoeFewTokens && args.x.dim(1) % kMoeInt8Rows == 0 &&
         args.down.data.dim(2) % kMoeInt8Rows == 0;
}

// Products of float weights, packed or not; of packed FP8 and int8 weights with quantised
// activations.
bool has_products(const Exec&, const GroupedMoe& args) {
  const DType dtype = args.gate_up.data.dtype;
  return (!args.gate_up.scale.defined() && !is_tiled(dtype)) ||
         (args.quantise_activations && (dtype == DType::f8e4m3x32 || dtype == DType::i8x16));
}

constexpr KernelRow<GroupedMoe> kRows[] = {
#if FATHOM_CUDA
    {.name = "few_sm90",
     .device = Device::Kind::cuda,
     .supports = grouped_moe_takes_few_sm90,
     .run = grouped_moe_few_sm90},
    {.name = "tile_sm90",
     .device = Device::Kind::cuda,
     .supports = grouped_moe_takes_tile_sm90,
     .run = grouped_moe_tile_sm90},
    {.name = "cuda_plain",
     .device = Device::Kind::cuda,
     .supports = grouped_moe_takes_cuda_plain,
     .run = grouped_moe_cuda_plain},
#endif
#if defined(__x86_64__)
    {.name = "few_avx512_bf16",
     .supports = takes_few_fp8<CpuLevel::avx512_bf16>,
     .run = N_AVX3_DL::grouped_moe_few_fp8},
    {.name = "few_avx512",
     .supports = takes_few_fp8<CpuLevel::avx512>,
     .run = N_AVX3::grouped_moe_few_fp8},
    {.name = "few_avx2",
     .supports = takes_few_fp8<CpuLevel::avx2>,
     .run = N_AVX2::grouped_moe_few_fp8},
    {.name = "few_int8_avx512_vnni",
     .supports = takes_few_int8<CpuLevel::avx512_vnni>,
     .run = N_AVX3_DL::grouped_moe_few_int8},
    {.name = "few_int8_avx512",
     .supports = takes_few_int8<CpuLevel::avx512>,
     .run = N_AVX3::grouped_moe_few_int8},
    {.name = "few_int8_avx2",
     .supports = takes_few_int8<CpuLevel::avx2>,
     .run = N_AVX2::grouped_moe_few_int8},
#elif defined(__aarch64__)
    {.name = "few_neon",
     .supports = takes_few_fp8<CpuLevel::neon>,
     .run = N_NEON::grouped_moe_few_fp8},
    {.name = "few_int8_neon",
     .supports = takes_few_int8<CpuLevel::neon>,
     .run = N_NEON::grouped_moe_few_int8},
#endif
    {.name = "gathered", .supports = has_products, .run = grouped_moe_gathered},
    {.name = "by_token", .supports = has_products, .run = grouped_moe_by_token},
    {.name = "ref", .run = grouped_moe_ref},
};
constexpr KernelTable<GroupedMoe> kTable{"grouped_moe", kRows};

}  // namespace

const KernelTable<GroupedMoe>& grouped_moe_table() {
  return kTable;
}

void grouped_moe(Exec& exec, const GroupedMoe& args) {
  const DType weight = args.gate_up.data.dtype;
  const bool scaled = args.gate_up.scale.defined(), channels = has_channel_scales(args.gate_up);
  const bool int8 = weight == DType::i8 || weight == DType::i8x16 || weight == DType::i8x64;
  Expect expect(kTable.op, exec.device);
  expect.tensor("x", args.x, {"T", "C"}, {DType::f32, DType::bf16})
      .tensor("ids", args.ids, {"T", "k"}, {DType::i32})
      .tensor("weights", args.weights, {"T", "k"}, {DType::f32})
      .tensor("gate_up", args.gate_up.data, {"E", "N1", "C"}, {weight})
      .tensor("down", args.down.data, {"E", "N2", "I"}, {args.down.data.dtype})
      .optional("addend", args.addend, {"T", "C"}, {args.x.dtype})
      .tensor("y", args.y, {"T", "C"}, {args.x.dtype})
      .that(expect.size("N1") >= 2 * expect.size("I"), "gate_up has 2 I rows")
      .that(expect.size("N2") >= expect.size("C"), "down has C rows")
      .that(scaled || !args.quantise_activations, "quantised activations need FP8 or int8 weights")
      .that(!int8 || channels, "int8 weights have a scale per row")
      .that(!channels || args.quantise_activations, "scales per row need quantised activations")
      .that(args.scale == 1.0f || exec.device.is_cpu(), "a scale in the sum is the CPU's");
  if (channels) {
    expect.tensor("gate_up.scale", args.gate_up.scale, {"E", "S1"}, {DType::f32})
        .tensor("down.scale", args.down.scale, {"E", "C"}, {DType::f32})
        .that(expect.size("S1") == 2 * expect.size("I"), "a scale per row");
  } else if (scaled) {
    expect.tensor("gate_up.scale", args.gate_up.scale, {"E", "S1", "SC"}, {DType::f32})
        .tensor("down.scale", args.down.scale, {"E", "SC", "SI"}, {DType::f32})
        .that(
            expect.size("C") % kFp8Block == 0 && expect.size("I") % kFp8Block == 0,
            "C and I are multiples of 128"
        )
        .that(
            expect.size("SC") * kFp8Block == expect.size("C") &&
                expect.size("SI") * kFp8Block == expect.size("I") &&
                expect.size("S1") == 2 * expect.size("SI"),
            "a scale per 128 rows and columns"
        );
  }
  kTable.run(exec, args);
}

int64_t grouped_moe_scratch_bytes([[maybe_unused]] const MoeSize& size) {
#if FATHOM_CUDA
  // Row cuda_plain's floats: of x, and of h.
  constexpr int64_t kRounding = 1 << 10;
  const int64_t plain =
      4 * size.tokens * (size.hidden + size.slots * size.intermediate) + kRounding;
  return std::max(grouped_moe_tile_scratch_bytes(size), plain);
#else
  return 0;
#endif
}

Cost cost(const GroupedMoe& args) {
  const int64_t T = args.x.dim(0);
  const int64_t k = args.ids.dim(1);
  std::vector<bool> active(static_cast<size_t>(args.gate_up.data.dim(0)));
  double experts = 0, rows = 0;
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t s = 0; s < k; ++s) {
      const int32_t e = args.ids.as<int32_t>()[t * args.ids.stride(0) + s];
      if (e < 0) continue;
      ++rows;
      if (!active[static_cast<size_t>(e)]) ++experts;
      active[static_cast<size_t>(e)] = true;
    }
  }
  const Tensor& down = args.down.data;
  const double values = 3.0 * static_cast<double>(args.x.dim(1) * down.dim(2));  // of one expert
  return {
      .bytes = experts * values * info(down.dtype).block_bytes +
               2 * static_cast<double>(args.x.elements()) * info(args.x.dtype).block_bytes,
      .flops = 2 * rows * values,
  };
}

}  // namespace fathom::ops
