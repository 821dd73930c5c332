// WGMMA: products of 64 x N tiles by one warpgroup (128 threads), operands in shared memory.
//
// Operand image: rows of 128 bytes, the 16-byte chunk index XORed with (row & 7), atoms of 8 rows
// at multiples of 1024 bytes: what TMA writes with 128-byte swizzle. A: 64 rows (M), B: N rows,
// both "K-major" (a row's bytes run along K). One step takes 32 bytes of K (32 FP8 or 16 BF16
// elements); the next step's descriptor is 2 further, 64 further rows are 8192 bytes: 0x200
// further.
//
// Fragment: lane = 4 g + t of warp w holds d[4 j + 0, 1] = row 16 w + g, columns 8 j + 2 t, + 1 and
// d[4 j + 2, 3] = row 16 w + g + 8.
//
// Order: wgmma_fence; products; wgmma_commit; wgmma_wait. The accumulators may not be touched
// between fence and wait; nothing conditional may stand there.
#pragma once

#include "fathom/ops/device/mma_odd_sm90.cuh"
#include "fathom/ops/device/mma_products_sm90.cuh"
#include "fathom/ops/device/ptx.cuh"

namespace fathom::device {

// Descriptor of a K-major operand image with 128-byte swizzle; `image` at a multiple of 1024.
__device__ __forceinline__ uint64_t operand_descriptor(const void* image) {
  constexpr uint64_t kLeading = uint64_t{1} << 16;  // ignored by this layout
  constexpr uint64_t kStride = uint64_t{64} << 32;  // 1024 bytes from 8 rows to the next 8
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  return kSwizzle128 | kStride | kLeading | ((shared_address(image) & 0x3ffff) >> 4);
}

// Descriptor of an MN-major BF16 panel: [k rows][64 mn] of 128 bytes, swizzled alike; the next 64
// mn are `panel_bytes` further. 16 k rows further: +128.
__device__ __forceinline__ uint64_t transposed_descriptor(const void* image, uint32_t panel_bytes) {
  constexpr uint64_t kStride = uint64_t{64} << 32;
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  return kSwizzle128 | kStride | static_cast<uint64_t>(panel_bytes >> 4) << 16 |
         ((shared_address(image) & 0x3ffff) >> 4);
}

// A descriptor `units` of 16 bytes further: addresses lie in its low word, and one addition of 32
// bits is what stands between two products where the compiler cannot keep descriptors uniform.
__device__ __forceinline__ uint64_t advanced(uint64_t descriptor, uint32_t units) {
  return (descriptor & 0xffffffff00000000) | (static_cast<uint32_t>(descriptor) + units);
}

// wgmma.fence, .commit_group, .wait_group
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Ties accumulators to this place: the compiler may not move their reads and writes across it.
template <int Count>
__device__ __forceinline__ void pin(float (&d)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// What `v`, which is not negative, is made of has been computed before what follows. Without this
// ptxas moves a wgmma_wait ahead of arithmetic that is meant to run beside the products waited for;
// it leaves one behind a store to shared memory, even one that never happens.
__device__ __forceinline__ void settle(float v, void* shared) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.lt.f32 p, %1, 0f00000000;\n"
      "@p st.volatile.shared.f32 [%0], %1;\n"
      "}" ::"r"(shared_address(shared)),
      "f"(v)
      : "memory"
  );
}

// One tile of 128 bytes of K, four steps: d = A B^T. Between wgmma_fence and wgmma_commit.
template <int Count>
__device__ __forceinline__ void mma_e4m3_tile(float (&d)[Count], uint64_t a, uint64_t b) {
#pragma unroll
  for (int k = 0; k < 4; ++k)
    mma_e4m3(d, a + static_cast<uint64_t>(2 * k), b + static_cast<uint64_t>(2 * k), k > 0);
}

}  // namespace fathom::device
