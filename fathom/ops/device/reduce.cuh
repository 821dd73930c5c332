// Reductions over a warp and over a CTA.
#pragma once

#include <cstdint>

namespace fathom::device {

inline constexpr uint32_t kFullWarp = 0xffffffffu;

// Over the `Width` lanes of a group (a power of two); every lane gets the result. Same order each
// time.
template <int Width = 32>
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int d = Width / 2; d > 0; d /= 2) v += __shfl_xor_sync(kFullWarp, v, d);
  return v;
}

template <int Width = 32>
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int d = Width / 2; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, d));
  return v;
}

// Over all threads of a CTA of `Warps` warps. `scratch`: Warps floats of shared memory, free again
// after the next barrier of the CTA.
template <int Warps>
__device__ __forceinline__ float block_sum(float v, float* scratch) {
  v = warp_sum(v);
  if constexpr (Warps == 1) return v;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x % 32 == 0) scratch[warp] = v;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < Warps; ++i) total += scratch[i];
  return total;
}

}  // namespace fathom::device
