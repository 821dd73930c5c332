// WGMMA of F16 operands, float sums: BF16's products (mma_products_sm90.cuh,
// mma_transposed_sm90.cuh, mma_registers_sm90.cuh) with three more bits, for operands that are kept
// in F16's range.
#pragma once

#include <cstdint>

namespace fathom::device {

#define FATHOM_SUMS_8(i)                                                                      \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define FATHOM_SUMS_16(i) FATHOM_SUMS_8(i), FATHOM_SUMS_8(i + 8)
#define FATHOM_SUMS_32(i) FATHOM_SUMS_16(i), FATHOM_SUMS_16(i + 16)

// d (+)= A B^T, 16 of K, both K-major: wgmma.m64nNk16.
__device__ __forceinline__ void mma_f16(float (&d)[8], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7}, "
      "%8, %9, p, 1, 1, 0, 0;\n"
      "}"
      : FATHOM_SUMS_8(0)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate))
  );
}
__device__ __forceinline__ void mma_f16(float (&d)[16], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "%16, %17, p, 1, 1, 0, 0;\n"
      "}"
      : FATHOM_SUMS_16(0)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate))
  );
}

// d += A^T B^T: A as transposed_descriptor says, B K-major.
__device__ __forceinline__ void mma_f16_transposed(float (&d)[8], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.eq.b32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7}, "
      "%8, %9, p, 1, 1, 1, 0;\n"
      "}"
      : FATHOM_SUMS_8(0)
      : "l"(a), "l"(b)
  );
}
__device__ __forceinline__ void mma_f16_transposed(float (&d)[16], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.eq.b32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "%16, %17, p, 1, 1, 1, 0;\n"
      "}"
      : FATHOM_SUMS_16(0)
      : "l"(a), "l"(b)
  );
}

// d += A B^T, operand A in registers, as mma_registers_sm90.cuh takes it, B K-major.
__device__ __forceinline__ void mma_f16_registers(
    float (&d)[32], const uint32_t (&a)[4], uint64_t b
) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.eq.b32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, p, 1, 1, 0;\n"
      "}"
      : FATHOM_SUMS_32(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)
  );
}

#undef FATHOM_SUMS_8
#undef FATHOM_SUMS_16
#undef FATHOM_SUMS_32

}  // namespace fathom::device
