// From WGMMA's fragment to global memory by the copy engine: bf16 boxes of 64 rows x 64 columns in
// shared memory, rows of 128 bytes with 128-byte swizzle, as `box_store` takes them.
#pragma once

#include "fathom/ops/device/matrix_store.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::device {

inline constexpr int kBoxBytes = 64 * 128;

// d: this thread's 32 sums of 64 columns. All threads of the warpgroup; then fence_shared_for_async
// and a barrier of the warpgroup before one thread stores the box.
__device__ __forceinline__ void fill_box(uint8_t* box, const float* d) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  // Lane 8 i + r: row r + 8 (i % 2) of the warp's sixteen, octet i / 2 of a pair.
  const int row = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane % 16;
  const uint32_t address = shared_address(box) + static_cast<uint32_t>(row * 128);
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    const int octet = (j + lane / 16) ^ (row & 7);
    store_blocks(
        address + static_cast<uint32_t>(octet * 16),
        pack_bf16(d[4 * j], d[4 * j + 1]),
        pack_bf16(d[4 * j + 2], d[4 * j + 3]),
        pack_bf16(d[4 * j + 4], d[4 * j + 5]),
        pack_bf16(d[4 * j + 6], d[4 * j + 7])
    );
  }
}

}  // namespace fathom::device
