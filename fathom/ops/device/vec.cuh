// 16-byte loads and stores, and the floats in them.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace fathom::device {

// ld.global.cs / .nc: data that pass once; data that stay the same for the whole kernel.
__device__ __forceinline__ uint4 load_streaming(const void* p) {
  return __ldcs(static_cast<const uint4*>(p));
}
__device__ __forceinline__ uint4 load_constant(const void* p) {
  return __ldg(static_cast<const uint4*>(p));
}

// ld.global.nc of N consecutive weights as floats; p at a multiple of their size, at most 16.
template <int N>
__device__ __forceinline__ void load_floats(const float* p, float* out) {
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    const float4 v = __ldg(reinterpret_cast<const float4*>(p + i));
    out[i] = v.x;
    out[i + 1] = v.y;
    out[i + 2] = v.z;
    out[i + 3] = v.w;
  }
}

// bf16 is the upper half of a float.
__device__ __forceinline__ float low_bf16(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float high_bf16(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// cvt.rn.bf16x2.f32: two floats, the first in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

template <int N>
__device__ __forceinline__ void load_floats(const __nv_bfloat16* p, float* out) {
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    const uint2 v = __ldg(reinterpret_cast<const uint2*>(p + i));
    out[i] = low_bf16(v.x);
    out[i + 1] = high_bf16(v.x);
    out[i + 2] = low_bf16(v.y);
    out[i + 3] = high_bf16(v.y);
  }
}

// Element type of a kernel's activations: how 16 bytes of them become floats and back.
template <class T>
struct Vec;

template <>
struct Vec<__nv_bfloat16> {
  static constexpr int kElements = 8;
  static __device__ __forceinline__ void unpack(uint4 v, float* out) {
    const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      out[2 * i] = low_bf16(pairs[i]);
      out[2 * i + 1] = high_bf16(pairs[i]);
    }
  }
  static __device__ __forceinline__ uint4 pack(const float* in) {
    return {
        pack_bf16(in[0], in[1]),
        pack_bf16(in[2], in[3]),
        pack_bf16(in[4], in[5]),
        pack_bf16(in[6], in[7])};
  }
  static __device__ __forceinline__ float load(const __nv_bfloat16* p) {
    return __bfloat162float(*p);
  }
  static __device__ __forceinline__ void store(__nv_bfloat16* p, float v) {
    *p = __float2bfloat16_rn(v);
  }
};

template <>
struct Vec<float> {
  static constexpr int kElements = 4;
  static __device__ __forceinline__ void unpack(uint4 v, float* out) {
    out[0] = __uint_as_float(v.x);
    out[1] = __uint_as_float(v.y);
    out[2] = __uint_as_float(v.z);
    out[3] = __uint_as_float(v.w);
  }
  static __device__ __forceinline__ uint4 pack(const float* in) {
    return {
        __float_as_uint(in[0]),
        __float_as_uint(in[1]),
        __float_as_uint(in[2]),
        __float_as_uint(in[3])};
  }
  static __device__ __forceinline__ float load(const float* p) { return *p; }
  static __device__ __forceinline__ void store(float* p, float v) { *p = v; }
};

}  // namespace fathom::device
