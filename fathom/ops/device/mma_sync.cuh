// mma.sync: products of small tiles by one warp, operands in registers.
#pragma once

#include <cstdint>

namespace fathom::device {

// d += A B of BF16: mma.m16n8k16. Lane 4 g + t holds of A (16 x 16) rows g (a0, a2) and g + 8 (a1,
// a3), columns 2t, 2t + 1 (a0, a1) and 8 further (a2, a3); of B (16 x 8) column g, rows 2t, 2t + 1
// (b0) and 8 further (b1); of d rows g (d[0..1]) and g + 8 (d[2..3]), columns 2t, 2t + 1.
__device__ __forceinline__ void mma_bf16_sync(
    float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1
) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1)
  );
}

// d += A B of F16, as above.
__device__ __forceinline__ void mma_f16_sync(
    float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1
) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1)
  );
}

// d += A B of int8: mma.m16n8k32, exact sums of 32 bits. As above with four values where there are
// two: columns 4t .. 4t + 3 (a0, a1) and 16 further (a2, a3); rows 4t .. 4t + 3 (b0), 16 further.
__device__ __forceinline__ void mma_int8_sync(
    int (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1
) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1)
  );
}

}  // namespace fathom::device
