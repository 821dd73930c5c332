// stmatrix and movmatrix: 8x8 blocks of 16-bit elements of an MMA fragment, to shared memory or
// transposed.
#pragma once

#include <cstdint>

namespace fathom::device {

// stmatrix.x4: four blocks. Lane 4 g + t holds elements (g, 2t) and (g, 2t + 1) of each, the first
// in the low half; lane 8 i + r gives the address where row r of block i goes, 16 bytes.
__device__ __forceinline__ void store_blocks(
    uint32_t address, uint32_t block0, uint32_t block1, uint32_t block2, uint32_t block3
) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(block0),
               "r"(block1),
               "r"(block2),
               "r"(block3)
               : "memory");
}

// stmatrix.x4.trans: four blocks. Lane 4 g + t holds elements (g, 2t) and (g, 2t + 1) of each, the
// first in the low half; lane 8 i + r gives the address where column r of block i goes, 16 bytes.
__device__ __forceinline__ void store_blocks_transposed(
    uint32_t address, uint32_t block0, uint32_t block1, uint32_t block2, uint32_t block3
) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(block0),
      "r"(block1),
      "r"(block2),
      "r"(block3)
      : "memory"
  );
}

// movmatrix.trans: an 8x8 block of a fragment transposed. Lane 4 g + t gives elements (g, 2t) and
// (g, 2t + 1), the first in the low half, and gets (2t, g) and (2t + 1, g).
__device__ __forceinline__ uint32_t transpose_block(uint32_t pair) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
  return transposed;
}

// Lane 4 g + t gives word i and gets word t of lane 4 g + i: what four neighbours hold of four rows
// becomes a row each.
__device__ __forceinline__ void transpose_of_four(uint32_t (&word)[4], int t) {
  const bool odd = (t & 1) != 0, upper = (t & 2) != 0;
  const uint32_t a = __shfl_xor_sync(0xffffffffu, upper ? word[0] : word[2], 2);
  const uint32_t b = __shfl_xor_sync(0xffffffffu, upper ? word[1] : word[3], 2);
  (upper ? word[0] : word[2]) = a;
  (upper ? word[1] : word[3]) = b;
  const uint32_t c = __shfl_xor_sync(0xffffffffu, odd ? word[0] : word[1], 1);
  const uint32_t d = __shfl_xor_sync(0xffffffffu, odd ? word[2] : word[3], 1);
  (odd ? word[0] : word[1]) = c;
  (odd ? word[2] : word[3]) = d;
}

}  // namespace fathom::device
