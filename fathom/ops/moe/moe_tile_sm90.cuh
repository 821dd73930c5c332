// What grouped_moe's two products have in common beyond a few tokens (row tile_sm90).
//
// A tile is 256 rows of an expert's weights x the rows of an item, up to 160. The weights are
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
  } else if (rows <= 128) {
    f(std::integral_constant<int, 128>{});
  } else if (rows <= 144) {
    f(std::integral_constant<int, 144>{});
  } else {
    f(std::integral_constant<int, kTileItem>{});
  }
}

// The most rows, at most `limit`, of which a width is a whole number: what is staged at once.
constexpr int part_of_width(int width, int limit) {
  int part = limit < width ? limit : width;
  while (width % part != 0) part -= 8;
  return part;
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

  // Adds a unit; BF16: its products stay under way, those of the unit before have ended.
  // scale0, scale1: which of the slot's weight scales the two tiles have.
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
      device::wgmma_wait<1>();
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
    } else {
      add_parts(of[0], w0, x, r.w_scale[stage][scale0], r.x_scale[stage]);
      add_parts(of[1], w1, x, r.w_scale[stage][scale1], r.x_scale[stage]);
    }
  }

  // After the last unit.
  __device__ void settle() {
    if constexpr (!Fp8) device::wgmma_wait<0>();
    device::pin(of[0]);
    device::pin(of[1]);
  }

 private:
  // FP8, a tile's rows in one part or in two: registers hold one fragment, and the other warpgroup
  // multiplies meanwhile.
  __device__ static void add_parts(
      float (&sum)[kSums], uint64_t w, uint64_t x, float w_scale, const float* x_scale
  ) {
    constexpr int kPart = Width <= 128 ? Width : Width / 2;
    add_part<0, kPart>(sum, w, x, w_scale, x_scale);
    if constexpr (kPart < Width) {
      constexpr uint64_t kFurther = kPart * kTileRowBytes / 16;
      add_part<kPart / 2, kPart>(sum, w, x + kFurther, w_scale, x_scale + kPart);
    }
  }

  template <int First, int Part>
  __device__ static void add_part(
      float (&sum)[kSums], uint64_t w, uint64_t x, float w_scale, const float* x_scale
  ) {
    float products[Part / 2];
    device::wgmma_fence();
    device::mma_e4m3_tile(products, w, x);
    device::wgmma_commit();
    device::wgmma_wait<0>();
    device::pin(products);
    promote<First>(sum, products, w_scale, x_scale);
  }
};

// A warp has read a slot for the last time.
template <class Ring>
__device__ __forceinline__ void release_slot(Ring& r, int stage) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) r.empty[stage].arrive();
}

// Adds `units` of the ring; before(stage) once a slot is full, last(stage) before its last is
// released.
template <bool Fp8, int Width, class Storage, class Stand, class Before, class Last>
__device__ __forceinline__ void add_units(
    MoeTileSums<Fp8, Width>& sums,
    Storage& ring,
    Stand& at,
    int units,
    int scale0,
    int scale1,
    Before before,
    Last last
) {
  int held = -1;  // BF16: a slot whose products are under way
  for (int unit = 0; unit < units; ++unit) {
    ring.full[at.stage].wait(at.full_parity());
    before();
    sums.add(ring, at.stage, scale0, scale1);
    if constexpr (Fp8) {
      if (unit + 1 < units) release_slot(ring, at.stage);
    } else {
      if (held >= 0) release_slot(ring, held);
    }
    held = at.stage;
    at.advance();
  }
  sums.settle();
  last(held);
  release_slot(ring, held);
}

}  // namespace fathom::ops
