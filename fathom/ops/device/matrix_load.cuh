// ldmatrix: 8x8 blocks of 16-bit elements from shared memory to an MMA fragment.
#pragma once

#include <cstdint>

namespace fathom::device {

// ldmatrix.x4: four blocks. Lane 8 i + r gives the address of row r of block i, 16 bytes; lane
// 4 g + t receives elements (g, 2t) and (g, 2t + 1) of each.
__device__ __forceinline__ void load_blocks(uint32_t address, uint32_t (&block)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(block[0]), "=r"(block[1]), "=r"(block[2]), "=r"(block[3])
               : "r"(address)
               : "memory");
}

// The same of transposed blocks: elements (2t, g) and (2t + 1, g).
__device__ __forceinline__ void load_blocks_transposed(uint32_t address, uint32_t (&block)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(block[0]), "=r"(block[1]), "=r"(block[2]), "=r"(block[3])
               : "r"(address)
               : "memory");
}

}  // namespace fathom::device
