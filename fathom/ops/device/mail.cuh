// Floats that the CTAs of a kernel send each other through the L2, in words of Exec::mail. A word
// is its own flag: zero until the float has come, then the complement of its bits, and zero again
// when its one reader has taken it. So data and word of it make one trip; no fence stands between
// them, and nothing needs to be atomic that is wider than a word.
#pragma once

#include <cstdint>

namespace fathom::device {

// The complement of one NaN alone is zero: that one arrives as another.
__device__ __forceinline__ uint32_t sealed(float v) {
  return max(~__float_as_uint(v), 1u);
}
__device__ __forceinline__ float opened(uint32_t word) {
  return __uint_as_float(~word);
}
__device__ __forceinline__ float4 opened(uint4 v) {
  return {
      __uint_as_float(~v.x), __uint_as_float(~v.y), __uint_as_float(~v.z), __uint_as_float(~v.w)};
}
__device__ __forceinline__ float2 opened(uint2 v) {
  return {__uint_as_float(~v.x), __uint_as_float(~v.y)};
}

// st.relaxed.gpu, of words that are sealed.
__device__ __forceinline__ void send_sealed(uint32_t* to, uint4 v) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to),
               "r"(v.x),
               "r"(v.y),
               "r"(v.z),
               "r"(v.w)
               : "memory");
}
__device__ __forceinline__ void send(uint32_t* to, float4 v) {
  send_sealed(to, {sealed(v.x), sealed(v.y), sealed(v.z), sealed(v.w)});
}
__device__ __forceinline__ void send(uint32_t* to, float2 v) {
  asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(to),
               "r"(sealed(v.x)),
               "r"(sealed(v.y))
               : "memory");
}
__device__ __forceinline__ void send(uint32_t* to, float v) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(sealed(v)) : "memory");
}

// ld.relaxed.gpu: what lies there now.
__device__ __forceinline__ uint32_t peek(const uint32_t* from) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(from) : "memory");
  return v;
}
__device__ __forceinline__ uint4 peek_4(const uint32_t* from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}
__device__ __forceinline__ uint2 peek_2(const uint32_t* from) {
  uint2 v;
  asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(from)
               : "memory");
  return v;
}
// The same into v, unless `wanted` is zero.
__device__ __forceinline__ void peek_if(uint32_t wanted, const uint32_t* from, uint4& v) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.u32 p, %5, 0;\n"
      "@p ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];\n"
      "}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(from), "r"(wanted)
      : "memory"
  );
}
__device__ __forceinline__ bool arrived(uint4 v) {
  return v.x != 0 && v.y != 0 && v.z != 0 && v.w != 0;
}
__device__ __forceinline__ bool arrived(uint2 v) {
  return v.x != 0 && v.y != 0;
}

}  // namespace fathom::device
