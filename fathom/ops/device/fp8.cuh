// FP8 (e4m3): conversion, and quantisation of groups of 128 channels.
#pragma once

#include <cuda_bf16.h>
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

// cvt.rn.f16x2.e4m3x2, exact: of four codes the first two as halves, and the other two.
__device__ __forceinline__ uint2 halves_of_e4m3(uint32_t codes) {
  uint2 halves;
  asm("{\n"
      ".reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n"
      "}"
      : "=r"(halves.x), "=r"(halves.y)
      : "r"(codes));
  return halves;
}

// cvt.rn.f16x2.e4m3x2, then to float: exact.
__device__ __forceinline__ float2 unpack_e4m3(uint16_t pair) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(pair));
  return __half22float2(*reinterpret_cast<__half2*>(&halves));
}

// Four e4m3 codes times a factor, each product rounded to F16: one cvt.rn.f16x2.e4m3x2 (exact) and
// one product for two.
__device__ __forceinline__ uint2 scaled_f16(uint32_t codes, __half2 factor) {
  const uint2 halves = halves_of_e4m3(codes);
  const auto scaled = [&](uint32_t pair) {
    const __half2 product = __hmul2(*reinterpret_cast<const __half2*>(&pair), factor);
    return *reinterpret_cast<const uint32_t*>(&product);
  };
  return {scaled(halves.x), scaled(halves.y)};
}

}  // namespace fathom::device
