// What the sampling kernels share.
#pragma once

#include <cstdint>

#include "fathom/ops/device/reduce.cuh"

namespace fathom::ops::sampling {

// The largest value and its lowest index. A NaN or +inf counts as larger than all: whoever wins
// with one has unhealthy logits, as has a row of nothing finite.
struct alignas(8) Best {
  float value = -INFINITY;
  int32_t index = 0x7fffffff;

  __device__ __forceinline__ void see(float v, int i) {
    if (!(v < INFINITY)) v = INFINITY;
    if (v > value) {
      value = v;
      index = i;
    }
  }
  __device__ __forceinline__ void take(Best other) {
    if (other.value > value || (other.value == value && other.index < index)) *this = other;
  }
  __device__ __forceinline__ bool healthy() const { return value > -INFINITY && value < INFINITY; }
};

__device__ __forceinline__ Best best_of_warp(Best best) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    Best other;
    other.value = __shfl_xor_sync(device::kFullWarp, best.value, d);
    other.index = __shfl_xor_sync(device::kFullWarp, best.index, d);
    best.take(other);
  }
  return best;
}

}  // namespace fathom::ops::sampling
