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

// Where a token's head lies.
template <class T>
struct Place {
  T* y;
  const T* other;
  float* lse;
  const float* other_lse;

  __device__ __forceinline__ Place(const Arguments<T>& a, unsigned pair) {
    const unsigned token = pair / a.H, head = pair - token * a.H;
    y = a.y + token * a.y_stride + head * a.D;
    other = a.other + token * a.other_stride + head * a.D;
    lse = a.lse + token * a.lse_stride + head;
    other_lse = a.other_lse + token * a.other_lse_stride + head;
  }
};

// Lanes: of a token and head, a power of two; each takes 16 bytes of it.
template <class T, int Lanes>
__global__ void __launch_bounds__(kThreads) merge_rows(const Arguments<T> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const unsigned pair = (blockIdx.x * kThreads + threadIdx.x) / Lanes;
  constexpr int kStep = Vec<T>::kElements;
  const int d = static_cast<int>(threadIdx.x) % Lanes * kStep;
  const bool inside = pair < a.pairs && d < a.D;
  const Place<T> at(a, min(pair, a.pairs - 1));
  const float of_y = *at.lse, of_other = *at.other_lse;
  uint4 kept{}, added{};
  if (inside) {
    kept = device::load_streaming(at.y + d);
    added = device::load_streaming(at.other + d);
  }
  __syncwarp();  // all lanes have read lse
  if (!inside) return;
  const Shares s = shares_of(of_y, of_other);
  if (d == 0) *at.lse = s.lse;
  float u[kStep], v[kStep];
  Vec<T>::unpack(kept, u);
  Vec<T>::unpack(added, v);
#pragma unroll
  for (int i = 0; i < kStep; ++i) u[i] = s.keep * u[i] + s.add * v[i];
  *reinterpret_cast<uint4*>(at.y + d) = Vec<T>::pack(u);
}

// Any head: a warp a token's.
template <class T>
__global__ void __launch_bounds__(kThreads) merge_values(const Arguments<T> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const unsigned pair = (blockIdx.x * kThreads + threadIdx.x) / 32;
  if (pair >= a.pairs) return;
  const Place<T> at(a, pair);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Shares s = shares_of(*at.lse, *at.other_lse);
  for (int d = lane; d < a.D; d += 32)
    Vec<T>::store(at.y + d, s.keep * Vec<T>::load(at.y + d) + s.add * Vec<T>::load(at.other + d));
  __syncwarp();  // all lanes have read it
  if (lane == 0) *at.lse = s.lse;
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
  const bool half = a.D <= 16 * kElements, wide = a.D <= 32 * kElements && a.D % kElements == 0 &&
                                                  whole(args.y) && whole(args.other);
  const int64_t of_cta = kThreads / (wide && half ? 16 : 32);
  const dim3 grid(static_cast<unsigned>((a.pairs + of_cta - 1) / of_cta));
  const auto kernel = !wide ? merge_values<T> : half ? merge_rows<T, 16> : merge_rows<T, 32>;
  cuda::launch(exec, "merge_states", {.grid = grid, .threads = kThreads}, kernel, a);
}

}  // namespace

void merge_states_cuda_vec(Exec& exec, const MergeStates& args) {
  if (args.y.elements() == 0) return;
  args.y.dtype == DType::bf16 ? run<__nv_bfloat16>(exec, args) : run<float>(exec, args);
}

}  // namespace fathom::ops
