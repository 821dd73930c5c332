// FP8 (e4m3): conversion, and quantisation of groups of 128 channels.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace fathom::device {

inline constexpr float kLargestE4m3 = 448.0f;

// cvt.rn.satfinite.e4m3x2.f32: two floats, the first in the low byte.
__device__ __forceinline__ uint16_t pack_e4m3(float low, float high) {
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ uint32_t pack_e4m3(float a, float b, float c, float d) {
  return static_cast<uint32_t>(pack_e4m3(a, b)) | static_cast<uint32_t>(pack_e4m3(c, d)) << 16;
}

// cvt.rn.f16x2.e4m3x2, then to float: exact.
__device__ __forceinline__ float2 unpack_e4m3(uint16_t pair) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(pair));
  return __half22float2(*reinterpret_cast<__half2*>(&halves));
}

}  // namespace fathom::device
