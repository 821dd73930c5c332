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

// cvt.rn.f16x2.e4m3x2, then to float: exact.
__device__ __forceinline__ float2 unpack_e4m3(uint16_t pair) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(pair));
  return __half22float2(*reinterpret_cast<__half2*>(&halves));
}

// A float factor as two bf16, together 16 of its bits, each for both halves of a pair.
struct Bf16Factor {
  __nv_bfloat162 high, low;

  __device__ __forceinline__ explicit Bf16Factor(float f)
      : high(__float2bfloat162_rn(f)), low(__float2bfloat162_rn(f - __low2float(high))) {}
};

// Four e4m3 codes times a factor, rounded to bf16 once but for 2^-8 of an ulp. By integer
// arithmetic, at three times the rate of the conversions. The codes of NaN count as 480.
__device__ __forceinline__ uint2 scaled_bf16(uint32_t codes, const Bf16Factor& factor) {
  const auto pair = [&](uint32_t bytes) {  // each in the upper half of a bf16
    // The fields in bf16's place: the value x 2^-120, subnormal or not.
    const uint32_t bits = (bytes & 0x80008000u) | (bytes >> 4 & 0x07f007f0u);
    const uint32_t power = 0x7b807b80u;  // 2^120
    const __nv_bfloat162 value = __hmul2(
        *reinterpret_cast<const __nv_bfloat162*>(&bits),
        *reinterpret_cast<const __nv_bfloat162*>(&power)
    );
    const __nv_bfloat162 scaled = __hfma2(value, factor.high, __hmul2(value, factor.low));
    return *reinterpret_cast<const uint32_t*>(&scaled);
  };
  return {pair(__byte_perm(codes, 0, 0x1404)), pair(__byte_perm(codes, 0, 0x3424))};
}

}  // namespace fathom::device
