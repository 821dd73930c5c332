// fused_quant, row cuda_vec: half a warp per two groups of 128, a lane per eight values of each,
// one pass over memory. Neighbouring half warps take neighbouring tokens, whose scales lie side by
// side.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/quant/fused_quant_rows.h"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops {
namespace {

using device::Vec;

template <class X>
struct Arguments {
  const X* x;
  uint8_t* y;
  float* scale;
  int64_t x_stride, y_stride, scale_stride;
  int64_t T, K, items;  // items: tokens x groups
  float eps;
  bool ue8m0;
};

constexpr int kThreads = 256;
constexpr int kLanes = 16;  // of a group
constexpr int kValues = 8;  // of a lane

template <class X>
__device__ void load(const X* from, float (&v)[kValues]) {
#pragma unroll
  for (int i = 0; i < kValues; i += Vec<X>::kElements)
    Vec<X>::unpack(device::load_streaming(from + i), v + i);
}

template <class X, bool Swiglu>
__global__ void __launch_bounds__(kThreads) quantise_groups(const Arguments<X> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  constexpr int kItems = 2;
  constexpr int kAtOnce = kThreads / kLanes;
  const int64_t first = int64_t{blockIdx.x} * kAtOnce * kItems + threadIdx.x / kLanes;
  const int lane_k = static_cast<int>(threadIdx.x) % kLanes * kValues;
  int64_t group[kItems], token[kItems];
  float v[kItems][kValues];
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int64_t item = min(first + j * kAtOnce, a.items - 1);  // all lanes shuffle
    group[j] = item / a.T;
    token[j] = item - group[j] * a.T;
    const X* x = a.x + token[j] * a.x_stride + group[j] * kFp8Block + lane_k;
    load(x, v[j]);
    if constexpr (Swiglu) {
      float up[kValues];
      load(x + a.K, up);
#pragma unroll
      for (int i = 0; i < kValues; ++i) v[j][i] = silu(v[j][i]) * up[i];
    }
  }
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    float amax = a.eps;
#pragma unroll
    for (int i = 0; i < kValues; ++i) amax = fmaxf(amax, fabsf(v[j][i]));
    const float scale = group_scale(device::warp_max<kLanes>(amax), a.ue8m0);
    if (first + j * kAtOnce >= a.items) return;
    const uint2 codes = ops::quantise(v[j], scale);
    *reinterpret_cast<uint2*>(a.y + token[j] * a.y_stride + group[j] * kFp8Block + lane_k) = codes;
    if (lane_k == 0) a.scale[group[j] * a.scale_stride + token[j]] = scale;
  }
}

// Any width and alignment: a warp per group.
template <class X, bool Swiglu>
__global__ void __launch_bounds__(kThreads) quantise_any(const Arguments<X> a) {
  device::wait_for_predecessor();
  const int64_t item = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  if (item >= a.items) return;
  const int64_t group = item / a.T, token = item - group * a.T;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const X* x = a.x + token * a.x_stride;
  const int64_t begin = group * kFp8Block, end = min(begin + kFp8Block, a.K);
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
  const Arguments<X> a{
      .x = static_cast<const X*>(args.x.data),
      .y = args.y.as<uint8_t>(),
      .scale = args.scale.as<float>(),
      .x_stride = args.x.stride(0),
      .y_stride = args.y.stride(0),
      .scale_stride = args.scale.stride(0),
      .T = args.y.dim(0),
      .K = args.y.dim(1),
      .items = args.y.dim(0) * fp8_blocks(args.y.dim(1)),
      .eps = args.eps,
      .ue8m0 = args.ue8m0,
  };
  const bool whole = a.K % kFp8Block == 0 && a.x_stride * sizeof(X) % 16 == 0 &&
                     reinterpret_cast<uintptr_t>(a.x) % 16 == 0 && a.y_stride % 8 == 0 &&
                     reinterpret_cast<uintptr_t>(a.y) % 8 == 0;
  const int64_t items_per_cta = whole ? 2 * kThreads / kLanes : kThreads / 32;
  const dim3 grid(static_cast<unsigned>((a.items + items_per_cta - 1) / items_per_cta));
  const auto kernel = whole ? quantise_groups<X, Swiglu> : quantise_any<X, Swiglu>;
  cuda::launch(exec, "fused_quant", {.grid = grid, .threads = kThreads}, kernel, a);
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
