// Quantisation of a group of 128 values to e4m3 by fused_quant's rules, bit by bit: what every
// kernel that quantises activations shares.
#pragma once

#include "fathom/ops/device/fp8.cuh"
#include "fathom/ops/device/reduce.cuh"

namespace fathom::ops {

// The least power of two not below a positive normal float.
__device__ __forceinline__ float power_of_two(float v) {
  const uint32_t bits = __float_as_uint(v);
  return __uint_as_float((bits + 0x7fffffu) & 0xff800000u);
}

// The scale of a group of largest magnitude `amax`.
__device__ __forceinline__ float group_scale(float amax, bool ue8m0) {
  const float scale = amax / device::kLargestE4m3;
  return ue8m0 ? power_of_two(scale) : scale;
}

// The same of a group that `Lanes` lanes hold together, by all lanes of a warp; `least`: the least
// magnitude that it is taken to have.
template <int Lanes, int Count>
__device__ __forceinline__ float group_scale(const float (&v)[Count], float least, bool ue8m0) {
  float amax = least;
#pragma unroll
  for (int i = 0; i < Count; ++i) amax = fmaxf(amax, fabsf(v[i]));
  return group_scale(device::warp_max<Lanes>(amax), ue8m0);
}

__device__ __forceinline__ float silu(float v) {
  return __fdividef(v, 1.0f + __expf(-v));
}

// The IEEE quotient v / scale from the scale's rounded reciprocal, a normal number, and the
// remainder.
__device__ __forceinline__ float quotient(float v, float scale, float inverse) {
  const float near = v * inverse;
  return fmaf(fmaf(-near, scale, v), inverse, near);
}

// The IEEE quotients of a group's values by its scale: from the rounded reciprocal and the
// remainder, one division for all.
template <int Count>
__device__ __forceinline__ void divide(float (&v)[Count], float scale) {
  if (scale > 1e38f) {  // its reciprocal is no normal number
#pragma unroll
    for (int i = 0; i < Count; ++i) v[i] /= scale;
    return;
  }
  const float inverse = __frcp_rn(scale);
#pragma unroll
  for (int i = 0; i < Count; ++i) v[i] = quotient(v[i], scale, inverse);
}

// The codes of eight values.
__device__ __forceinline__ uint2 quantise(float (&v)[8], float scale) {
  divide(v, scale);
  return {device::pack_e4m3(v[0], v[1], v[2], v[3]), device::pack_e4m3(v[4], v[5], v[6], v[7])};
}

}  // namespace fathom::ops
