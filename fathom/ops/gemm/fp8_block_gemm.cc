#include "fathom/ops/gemm/fp8_block_gemm.h"

#include <algorithm>

#include "fathom/base/cpu_features.h"
#include "fathom/core/expect.h"
#include "fathom/ops/gemm/fp8_block_gemm_rows.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/weight_tiles.h"

namespace fathom::ops {
namespace {

template <CpuLevel kLevel>
bool supports(const Exec&, const Fp8BlockGemm& args) {
  return cpu_has(kLevel) && args.w.data.dtype == DType::f8e4m3x32 && args.x_scale.defined();
}

[[maybe_unused]] bool is_quantised(const Exec&, const Fp8BlockGemm& args) {
  return args.x_scale.defined();
}

constexpr KernelRow<Fp8BlockGemm> kRows[] = {
#if FATHOM_CUDA
    {.name = "rings_sm90",
     .device = Device::Kind::cuda,
     .supports = fp8_block_gemm_takes_rings,
     .run = fp8_block_gemm_rings_sm90},
    {.name = "cluster_sm90",
     .device = Device::Kind::cuda,
     .supports = fp8_block_gemm_takes_cluster,
     .run = fp8_block_gemm_cluster_sm90},
    {.name = "tile_sm90",
     .device = Device::Kind::cuda,
     .supports = fp8_block_gemm_takes_tile,
     .run = fp8_block_gemm_tile_sm90},
    {.name = "cuda_plain",
     .device = Device::Kind::cuda,
     .supports = is_quantised,
     .run = fp8_block_gemm_cuda_plain},
#endif
#if defined(__x86_64__)
    {.name = "avx512_bf16",
     .supports = supports<CpuLevel::avx512_bf16>,
     .run = N_AVX3_DL::fp8_block_gemm},
    {.name = "avx512", .supports = supports<CpuLevel::avx512>, .run = N_AVX3::fp8_block_gemm},
    {.name = "avx2", .supports = supports<CpuLevel::avx2>, .run = N_AVX2::fp8_block_gemm},
#elif defined(__aarch64__)
    {.name = "neon", .supports = supports<CpuLevel::neon>, .run = N_NEON::fp8_block_gemm},
#endif
    {.name = "ref", .run = fp8_block_gemm_ref},
};
constexpr KernelTable<Fp8BlockGemm> kTable{"fp8_block_gemm", kRows};

// Clusters of so many CTAs that `slots` hold at once. More than two CTAs must lie in one part of
// the chip: some processors stay idle.
int clusters_at_once(int slots, int cluster) {
  return (cluster > 2 ? slots * 7 / 8 : slots) / cluster;
}

}  // namespace

const KernelTable<Fp8BlockGemm>& fp8_block_gemm_table() {
  return kTable;
}

bool quantises_itself(const Exec& exec, const Fp8BlockGemm& args) {
  const std::string_view forced =
      exec.kernels == nullptr ? "" : exec.kernels->forced_row(kTable.op);
  for (const KernelRow<Fp8BlockGemm>& row : kTable.rows) {
    if (row.device != exec.device.kind || row.supports == nullptr) continue;
    if (!forced.empty() && row.name != forced) continue;
    if (exec.kernels != nullptr && !exec.kernels->allows(kTable.op, row.name)) continue;
    if (row.supports(exec, args)) return true;
  }
  return false;
}

void fp8_block_gemm(Exec& exec, const Fp8BlockGemm& args) {
  const int64_t M = args.x.dim(0);
  const int64_t N = args.y.dim(-1);
  const DType form = args.w.data.dtype;
  const int64_t rows = form == DType::f8e4m3x64 ? tiled_rows(N) : packed_rows(form, N);
  Expect(kTable.op, exec.device)
      .tensor("x", args.x, {"M", "K"}, {args.x_scale.defined() ? DType::f8e4m3 : DType::bf16})
      .optional("x_scale", args.x_scale, {"K/128", "M4"}, {DType::f32})
      .tensor("w", args.w.data, {"Np", "K"}, {DType::f8e4m3, DType::f8e4m3x32, DType::f8e4m3x64})
      .tensor("w_scale", args.w.scale, {"N/128", "K/128"}, {DType::f32})
      .tensor("y", args.y, {"M", "N"}, {DType::bf16, DType::f32})
      .that(args.x.dim(1) % 128 == 0, "K is a multiple of 128")
      .that(
          !args.x_scale.defined() || args.x_scale.dim(0) == args.x.dim(1) / 128,
          "x_scale has a row per block of 128 k"
      )
      .that(
          !args.x_scale.defined() || args.x_scale.dim(1) == (M + 3) / 4 * 4,
          "x_scale has M rounded up to 4 columns"
      )
      .that(args.w.data.dim(0) == rows, "w has the rows of y's columns, rounded up to its form")
      .that(args.w.scale.dim(0) == (N + 127) / 128, "w_scale has a row per 128 rows of w")
      .that(args.y.contiguous() || exec.device.is_cuda(), "y is contiguous");
  kTable.run(exec, args);
}

Cost cost(const Fp8BlockGemm& args) {
  const auto M = static_cast<double>(args.x.dim(0));
  const auto K = static_cast<double>(args.x.dim(1));
  const auto N = static_cast<double>(args.y.dim(1));
  const double x_scales = args.x_scale.defined() ? static_cast<double>(args.x_scale.bytes()) : 0;
  const double scales = x_scales + static_cast<double>(args.w.scale.bytes());
  return {
      .bytes = static_cast<double>(args.x.bytes()) + N * K + scales +
               static_cast<double>(args.y.bytes()),
      .flops = 2 * M * N * K,
  };
}

bool clusters_take_whole_processors(
    int64_t tokens, int64_t groups, int64_t blocks, int processors
) {
  // Measured on an H100: what the deeper ring gains must be more than what half a processor gains,
  // where the successor's ring fills early; up to 8 tokens, where clusters of three halves fit.
  if (tokens > 8) return blocks >= 12;
  return blocks >= 56 && groups <= processors && groups > clusters_at_once(2 * processors, 3);
}

ClusterPlan plan_clusters(int64_t groups, int64_t blocks, const ClusterLimits& limits) {
  // In the time of a block at a processor's fair share of the memory's rate, measured on an H100: a
  // block at the fastest that one CTA goes, what is lost where one or two CTAs have a group and end
  // with the slowest processor, and a meeting of clusters of that many.
  const double fastest = limits.resident > 1 || limits.whole ? 0.6 : 0.77;
  const double slowest = limits.resident > 1 ? 1.1 : 1.05;
  constexpr double kMeeting[] = {0, 0, 1.1, 1.4, 2.2};
  const int slots = limits.processors * limits.resident;
  ClusterPlan best;
  double least = 0;
  for (int cluster = 1; cluster <= 4; ++cluster) {
    if (cluster > 1 && (cluster > blocks || cluster > limits.processors)) break;
    const int fitting = clusters_at_once(slots, cluster);
    if (fitting == 0) break;
    const int64_t turns = (groups + fitting - 1) / fitting;
    const ClusterPlan plan{
        .groups = static_cast<int>(groups),
        .blocks = static_cast<int>(blocks),
        .cluster = cluster,
        .clusters = static_cast<int>((groups + turns - 1) / turns)};
    if (limits.most_blocks > 0 && plan.most_blocks() > limits.most_blocks && cluster < 4) continue;
    const double units = plan.most_units();
    const double meetings = kMeeting[cluster] * static_cast<double>(turns * limits.resident);
    const double fair = static_cast<double>(groups * blocks) / limits.processors;
    const double cost = std::max(fair * (cluster <= 2 ? slowest : 1.0), fastest * units) + meetings;
    if (least > 0 && cost >= least) continue;
    least = cost;
    best = plan;
  }
  return best;
}

RingPlan plan_rings(int64_t outputs, int64_t blocks, int processors) {
  // Measured on an H100, in ns: a block of a group of that many outputs, and what a meeting of that
  // many parts costs.
  struct Width {
    int outputs, block;
  };
  constexpr Width kWidths[] = {{128, 450}, {80, 345}, {64, 310}};
  constexpr int kMeeting[] = {0, 0, 1200, 3000, 4500};
  RingPlan best;
  int least = 0;
  for (const auto [width, block] : kWidths) {
    for (int parts = 1; parts <= 4; ++parts) {
      const int fitting = clusters_at_once(processors, parts);
      if (fitting == 0 || parts > blocks) break;
      RingPlan plan{
          .outputs = width,
          .groups = static_cast<int>((outputs + width - 1) / width),
          .blocks = static_cast<int>(blocks),
          .parts = parts};
      const int turns = (plan.groups + fitting - 1) / fitting;
      plan.clusters = (plan.groups + turns - 1) / turns;
      if (width == 128 ? parts > 1 : turns > 1) continue;
      if (plan.most_units() > most_ring_units(width)) continue;
      const int cost = plan.most_units() * block + kMeeting[parts];
      if (least > 0 && cost >= least) continue;
      least = cost;
      best = plan;
    }
  }
  return best;
}

}  // namespace fathom::ops
