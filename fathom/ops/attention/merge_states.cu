// merge_states, row cuda_vec: as many lanes per token and head as there are vectors of its values.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/merge_states_rows.h"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kThreads = 256;

template <class T>
struct Arguments {
  T* y;
  float* lse;
  const T* other;
  const float* other_lse;
  int64_t y_stride, lse_stride, other_stride, other_lse_stride;
  unsigned pairs, H;  // pairs: tokens x heads
  int D;
};

// Shares of the two parts; how a part that saw nothing is written: -inf, or +inf.
struct Shares {
  float keep, add, lse;
};
__device__ __forceinline__ Shares shares_of(float a, float b) {
  if (a == INFINITY) a = -INFINITY;
  if (b == INFINITY) b = -INFINITY;
  const float m = fmaxf(a, b);
  if (m == -INFINITY) return {0.0f, 0.0f, -INFINITY};
  const float w = expf(a - m), v = expf(b - m), total = w + v;
  return {w / total, v / total, m + logf(total)};
}

// Lanes: of a token and head, a power of two; each takes 16 bytes at once, or one value.
template <class T, bool Wide, int Lanes>
__global__ void __launch_bounds__(kThreads) merge(const Arguments<T> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const unsigned pair = (blockIdx.x * kThreads + threadIdx.x) / Lanes;
  const bool inside = pair < a.pairs;
  const unsigned token = pair / a.H, head = pair - token * a.H;
  float* lse = a.lse + token * a.lse_stride + head;
  T* y = a.y + token * a.y_stride + head * a.D;
  const T* other = a.other + token * a.other_stride + head * a.D;
  constexpr int kStep = Wide ? Vec<T>::kElements : 1;
  const int lane = static_cast<int>(threadIdx.x) % Lanes;
  const float of_y = inside ? *lse : 0.0f;
  const float of_other = inside ? a.other_lse[token * a.other_lse_stride + head] : 0.0f;
  for (int d = lane * kStep; d < a.D && inside; d += Lanes * kStep) {
    if constexpr (Wide) {  // its loads are under way before the shares are known
      const uint4 kept = *reinterpret_cast<const uint4*>(y + d);
      const uint4 added = device::load_streaming(other + d);
      const Shares s = shares_of(of_y, of_other);
      float u[kStep], v[kStep];
      Vec<T>::unpack(kept, u);
      Vec<T>::unpack(added, v);
#pragma unroll
      for (int i = 0; i < kStep; ++i) u[i] = s.keep * u[i] + s.add * v[i];
      *reinterpret_cast<uint4*>(y + d) = Vec<T>::pack(u);
    } else {
      const Shares s = shares_of(of_y, of_other);
      Vec<T>::store(y + d, s.keep * Vec<T>::load(y + d) + s.add * Vec<T>::load(other + d));
    }
  }
  __syncwarp();  // all lanes have read it
  if (inside && lane == 0) *lse = shares_of(of_y, of_other).lse;
}

template <class T>
void run(Exec& exec, const MergeStates& args) {
  const Arguments<T> a{
      .y = static_cast<T*>(args.y.data),
      .lse = args.lse.as<float>(),
      .other = static_cast<const T*>(args.other.data),
      .other_lse = args.other_lse.as<float>(),
      .y_stride = args.y.stride(0),
      .lse_stride = args.lse.stride(0),
      .other_stride = args.other.stride(0),
      .other_lse_stride = args.other_lse.stride(0),
      .pairs = static_cast<unsigned>(args.y.dim(0) * args.y.dim(1)),
      .H = static_cast<unsigned>(args.y.dim(1)),
      .D = static_cast<int>(args.y.dim(2)),
  };
  constexpr int64_t kElements = Vec<T>::kElements;
  const auto whole = [&](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) % kElements == 0;
  };
  const bool wide = a.D % kElements == 0 && whole(args.y) && whole(args.other);
  const bool half = wide && a.D <= 16 * kElements;  // half a warp has enough
  const int64_t pairs_of_cta = kThreads / (half ? 16 : 32);
  const dim3 grid(static_cast<unsigned>((int64_t{a.pairs} + pairs_of_cta - 1) / pairs_of_cta));
  const auto kernel = half ? merge<T, true, 16> : wide ? merge<T, true, 32> : merge<T, false, 32>;
  cuda::launch(exec, "merge_states", {.grid = grid, .threads = kThreads}, kernel, a);
}

}  // namespace

void merge_states_cuda_vec(Exec& exec, const MergeStates& args) {
  if (args.y.elements() == 0) return;
  args.y.dtype == DType::bf16 ? run<__nv_bfloat16>(exec, args) : run<float>(exec, args);
}

}  // namespace fathom::ops
