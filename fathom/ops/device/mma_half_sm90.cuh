// WGMMA of F16 operands, float sums: BF16's products (mma_products_sm90.cuh,
// mma_transposed_sm90.cuh, mma_wide_sm90.cuh) with three more bits, for operands that are kept in
// F16's range.
#pragma once

#include <cstdint>

namespace fathom::device {

#define FATHOM_SUMS_8(i)                                                                      \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define FATHOM_SUMS_16(i) FATHOM_SUMS_8(i), FATHOM_SUMS_8(i + 8)
#define FATHOM_SUMS_32(i) FATHOM_SUMS_16(i), FATHOM_SUMS_16(i + 16)
#define FATHOM_SUMS_128(i) \
  FATHOM_SUMS_32(i), FATHOM_SUMS_32(i + 32), FATHOM_SUMS_32(i + 64), FATHOM_SUMS_32(i + 96)

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
__device__ __forceinline__ void mma_f16(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, p, 1, 1, 0, 0;\n"
      "}"
      : FATHOM_SUMS_32(0)
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

// The 128 sums of a product of 256 columns, as its operand list names them.
#define FATHOM_REGISTERS_128                         \
  "{%0, %1, %2, %3, %4, %5, %6, %7,"                 \
  " %8, %9, %10, %11, %12, %13, %14, %15,"           \
  " %16, %17, %18, %19, %20, %21, %22, %23,"         \
  " %24, %25, %26, %27, %28, %29, %30, %31,"         \
  " %32, %33, %34, %35, %36, %37, %38, %39,"         \
  " %40, %41, %42, %43, %44, %45, %46, %47,"         \
  " %48, %49, %50, %51, %52, %53, %54, %55,"         \
  " %56, %57, %58, %59, %60, %61, %62, %63,"         \
  " %64, %65, %66, %67, %68, %69, %70, %71,"         \
  " %72, %73, %74, %75, %76, %77, %78, %79,"         \
  " %80, %81, %82, %83, %84, %85, %86, %87,"         \
  " %88, %89, %90, %91, %92, %93, %94, %95,"         \
  " %96, %97, %98, %99, %100, %101, %102, %103,"     \
  " %104, %105, %106, %107, %108, %109, %110, %111," \
  " %112, %113, %114, %115, %116, %117, %118, %119," \
  " %120, %121, %122, %123, %124, %125, %126, %127}, "

// d += A B of 256 columns, B transposed, four panels in a row.
__device__ __forceinline__ void mma_f16_wide(float (&d)[128], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.eq.b32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 " FATHOM_REGISTERS_128
      "%128, %129, p, 1, 1, 0, 1;\n"
      "}"
      : FATHOM_SUMS_128(0)
      : "l"(a), "l"(b)
  );
}

// The same with operand A in registers, as mma_registers_sm90.cuh takes it.
__device__ __forceinline__ void mma_f16_wide_registers(
    float (&d)[128], const uint32_t (&a)[4], uint64_t b
) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.eq.b32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 " FATHOM_REGISTERS_128
      "{%128, %129, %130, %131}, %132, p, 1, 1, 1;\n"
      "}"
      : FATHOM_SUMS_128(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)
  );
}

#undef FATHOM_REGISTERS_128
#undef FATHOM_SUMS_8
#undef FATHOM_SUMS_16
#undef FATHOM_SUMS_32
#undef FATHOM_SUMS_128

}  // namespace fathom::device
