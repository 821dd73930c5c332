// What grouped_moe's two products have in common beyond a few tokens (row tile_sm90).
//
// A tile is 256 rows of an expert's weights x the rows of an item, up to 128. The weights are
// WGMMA's 64-row operand A, two tiles for each of two warpgroups; the item's rows are operand B,
// whose width follows how many there are: an expert with three rows costs products of width 8. A
// unit is 128 bytes of K of a tile: one slot of a ring in shared memory.
#pragma once

#include <type_traits>

#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/moe/moe_products.cuh"

namespace fathom::ops {

inline constexpr int kTileConsumers = 256;  // two warpgroups

// At a multiple of 1024 bytes.
template <int Stages>
struct MoeTileRing {
  uint8_t w[Stages][4][kTileBytes];  // two of the first warpgroup, two of the second
  uint8_t x[Stages][kTileItem * kTileRowBytes];
  alignas(16) float x_scale[Stages][kTileItem];
  float w_scale[Stages][2];
  int rows[Stages], first_row[Stages];  // of the item; of the rows before it
  device::Barrier full[Stages], empty[Stages];

  // By one thread.
  __device__ void init(uint32_t producers) {
    for (int i = 0; i < Stages; ++i) {
      full[i].init(producers);
      empty[i].init(kTileConsumers / 32);
    }
    device::fence_barrier_init();
  }

  // By one thread: a tile of each of four rows of them; the slot expects `other_bytes` beside.
  __device__ void load_weights(
      int stage, const uint8_t* const (&tiles)[4], uint32_t other_bytes, uint64_t policy
  ) {
    full[stage].arrive_expect(4 * static_cast<uint32_t>(kTileBytes) + other_bytes);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      device::bulk_load(w[stage][i], tiles[i], kTileBytes, full[stage], policy);
  }
};

// f(width) with the least width that takes so many rows, as a constant.
template <class F>
__device__ __forceinline__ void with_width(int rows, F f) {
  if (rows <= 8) {
    f(std::integral_constant<int, 8>{});
  } else if (rows <= 32) {
    f(std::integral_constant<int, 32>{});
  } else if (rows <= 64) {
    f(std::integral_constant<int, 64>{});
  } else {
    f(std::integral_constant<int, 128>{});
  }
}

// The sums of one warpgroup's two weight tiles with an item's first Width rows.
template <bool Fp8, int Width>
struct MoeTileSums {
  static constexpr int kSums = Width / 2;  // of one weight tile, a thread

  float of[2][kSums];

  __device__ MoeTileSums() {
#pragma unroll
    for (int i = 0; i < 2 * kSums; ++i) of[i / kSums][i % kSums] = 0;
  }

  // Adds a unit. scale0, scale1: which of the slot's weight scales the two tiles have.
  template <class Ring>
  __device__ void add(const Ring& r, int stage, int scale0, int scale1) {
    const int half = static_cast<int>(threadIdx.x) / 128;
    const uint64_t x = device::operand_descriptor(r.x[stage]);
    const uint64_t w0 = device::operand_descriptor(r.w[stage][2 * half]);
    const uint64_t w1 = device::operand_descriptor(r.w[stage][2 * half + 1]);
    if constexpr (!Fp8) {
      device::wgmma_fence();
      mma_bf16_tile(of[0], w0, x, true);
      mma_bf16_tile(of[1], w1, x, true);
      device::wgmma_commit();
      device::wgmma_wait<0>();
      device::pin(of[0]);
      device::pin(of[1]);
    } else if constexpr (Width <= 32) {  // both at once: their latency is one
      float first[kSums], second[kSums];
      device::wgmma_fence();
      device::mma_e4m3_tile(first, w0, x);
      device::mma_e4m3_tile(second, w1, x);
      device::wgmma_commit();
      device::wgmma_wait<0>();
      device::pin(first);
      device::pin(second);
      promote(of[0], first, r.w_scale[stage][scale0], r.x_scale[stage]);
      promote(of[1], second, r.w_scale[stage][scale1], r.x_scale[stage]);
    } else {  // registers hold one fragment; the other warpgroup multiplies meanwhile
      float products[kSums];
      device::wgmma_fence();
      device::mma_e4m3_tile(products, w0, x);
      device::wgmma_commit();
      device::wgmma_wait<0>();
      device::pin(products);
      promote(of[0], products, r.w_scale[stage][scale0], r.x_scale[stage]);
      device::wgmma_fence();
      device::mma_e4m3_tile(products, w1, x);
      device::wgmma_commit();
      device::wgmma_wait<0>();
      device::pin(products);
      promote(of[1], products, r.w_scale[stage][scale1], r.x_scale[stage]);
    }
  }
};

// A warp has read a slot for the last time.
template <class Ring>
__device__ __forceinline__ void release_slot(Ring& r, int stage) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) r.empty[stage].arrive();
}

}  // namespace fathom::ops
