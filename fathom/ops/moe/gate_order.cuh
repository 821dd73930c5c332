// Scores as integers of the same order: what the gate's kernels share.
#pragma once

#include <cstdint>

namespace fathom::ops {

constexpr float kOut = -__builtin_huge_valf();
constexpr uint32_t kTaken = 0, kNan = 1;

// Larger for larger floats; NaN last.
__device__ __forceinline__ uint32_t order_of(float v) {
  const uint32_t bits = __float_as_uint(v);
  const uint32_t key = bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
  return v != v ? kNan : key;
}

// Of a key that is no NaN's.
__device__ __forceinline__ float float_of(uint32_t key) {
  return __uint_as_float(key ^ (key >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}

}  // namespace fathom::ops
