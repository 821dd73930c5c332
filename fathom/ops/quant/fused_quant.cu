// fused_quant, row cuda_vec: half a warp per group of 128, a lane per eight values, one pass over
// memory; neighbouring half warps take neighbouring groups of a token.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/quant/fused_quant_rows.h"
#include "fathom/ops/quant/group_lanes.cuh"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kThreads = 256;

// Items groups of each half warp under way.
template <class X, bool Swiglu, int Items>
__global__ void __launch_bounds__(kThreads)
    quantise_groups(const quant::Rows<X> a, unsigned groups, unsigned items) {
  device::launch_successor();
  device::wait_for_predecessor();
  constexpr unsigned kAtOnce = kThreads / quant::kLanes;
  const unsigned first = blockIdx.x * kAtOnce * Items + threadIdx.x / quant::kLanes;
  quant::Lane<X, Swiglu> lane[Items];
  unsigned token[Items], group[Items];
#pragma unroll
  for (int j = 0; j < Items; ++j) {
    const unsigned item = min(first + j * kAtOnce, items - 1);
    token[j] = item / groups;
    group[j] = item - token[j] * groups;
    lane[j].load(a, token[j], static_cast<int>(group[j]));
  }
#pragma unroll
  for (int j = 0; j < Items; ++j)
    lane[j].quantise(a, token[j], static_cast<int>(group[j]), first + j * kAtOnce < items);
}

// Any width and alignment: a warp per group.
template <class X, bool Swiglu>
__global__ void __launch_bounds__(kThreads) quantise_any(const quant::Rows<X> a, int64_t T) {
  device::wait_for_predecessor();
  const int64_t item = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  const int64_t group = item / T, token = item - group * T;
  const int64_t begin = group * kFp8Block, end = min(begin + kFp8Block, int64_t{a.K});
  if (begin >= a.K) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const X* x = a.x + token * a.x_stride;
  const auto value = [&](int64_t k) {
    const float v = Vec<X>::load(x + k);
    return Swiglu ? silu(v) * Vec<X>::load(x + a.K + k) : v;
  };
  float amax = a.eps;
  for (int64_t k = begin + lane; k < end; k += 32) amax = fmaxf(amax, fabsf(value(k)));
  const float scale = group_scale(device::warp_max(amax), a.ue8m0);
  for (int64_t k = begin + lane; k < end; k += 32)
    a.y[token * a.y_stride + k] = static_cast<uint8_t>(device::pack_e4m3(value(k) / scale, 0));
  if (lane == 0) a.scale[group * a.scale_stride + token] = scale;
}

template <class X, bool Swiglu>
void run(const Exec& exec, const FusedQuant& args) {
  const quant::Rows<X> rows = quant::rows_of<X>(args);
  const int64_t T = args.y.dim(0), groups = fp8_blocks(args.y.dim(1)), items = T * groups;
  const auto launch = [&](auto kernel, int64_t items_of_cta, auto... sizes) {
    const dim3 grid(static_cast<unsigned>((items + items_of_cta - 1) / items_of_cta));
    cuda::launch(exec, "fused_quant", {.grid = grid, .threads = kThreads}, kernel, rows, sizes...);
  };
  constexpr int64_t kAtOnce = kThreads / quant::kLanes;
  constexpr int kItems = sizeof(X) == 2 ? 4 : 2;
  constexpr int64_t kMany = 1 << 15;  // groups: enough for all processors
  if (!quant::takes_vectors(args)) {
    launch(quantise_any<X, Swiglu>, kThreads / 32, T);
  } else if (items < kMany) {
    launch(quantise_groups<X, Swiglu, 1>, kAtOnce, groups, items);
  } else {
    launch(quantise_groups<X, Swiglu, kItems>, kItems * kAtOnce, groups, items);
  }
}

}  // namespace

void fused_quant_cuda_vec(Exec& exec, const FusedQuant& args) {
  const bool swiglu = args.prologue == FusedQuant::Prologue::swiglu;
  if (args.x.dtype == DType::bf16) {
    swiglu ? run<__nv_bfloat16, true>(exec, args) : run<__nv_bfloat16, false>(exec, args);
  } else {
    swiglu ? run<float, true>(exec, args) : run<float, false>(exec, args);
  }
}

}  // namespace fathom::ops
