// Quotients without a division, which costs a kernel's start or a loop's turn 100 to 150 cycles.
#pragma once

namespace fathom::device {

// n / by, exact for 0 <= n < 2^20 and by >= 1.
struct Divisor {
  int by = 1;
  float inverse = 1;  // to within a few units of the last place

  static Divisor of(int by) { return {by, 1.0f / static_cast<float>(by)}; }
  // Where only the kernel knows it.
  static __device__ __forceinline__ Divisor found(int by) {
    return {by, __fdividef(1.0f, static_cast<float>(by))};
  }
  __device__ __forceinline__ int quotient(int n) const {
    const int about = __float2int_rz(__int2float_rn(n) * inverse), rest = n - about * by;
    return about + (rest >= by ? 1 : 0) - (rest < 0 ? 1 : 0);
  }
};

}  // namespace fathom::device
