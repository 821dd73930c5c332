// mla_decode: numbers of any size as F16, in units of a power of two.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace fathom::ops::mla {

// Of numbers up to `largest`, which it makes 2^14 to 2^15; at least 2^-40, so that the product of
// two is a float.
__device__ __forceinline__ float unit_of(float largest) {
  constexpr uint32_t kExponent = 0x7f800000, kDown = 14u << 23, kLeast = 87u << 23;
  return __uint_as_float(max(__float_as_uint(largest) & kExponent, kLeast + kDown) - kDown);
}
// Exact, of a unit.
__device__ __forceinline__ float inverse_of(float unit) {
  return __uint_as_float((254u << 23) - __float_as_uint(unit));
}
__device__ __forceinline__ float log2_of(float unit) {
  return static_cast<float>(static_cast<int>(__float_as_uint(unit) >> 23) - 127);
}

// cvt.rn.f16x2.f32: two floats, the first in the low half.
__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ float2 unpack_f16(uint32_t pair) {
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

}  // namespace fathom::ops::mla
