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

// The sums of one warpgroup's two weight tiles with an item's first Width rows. Registers: what a
// thread may hold.
template <bool Fp8, int Width, int Registers>
struct MoeTileSums {
  static constexpr int kSums = Width / 2;  // of one weight tile, a thread
  // FP8: rows whose products, a fragment, are in registers at once. The other warpgroup multiplies
  // while they join the sums.
  static constexpr int kPart = Width <= 128 ? Width : Width / 2;
  static constexpr bool kBoth = Width <= 32;  // of both tiles: their latency is one
  // A part's scales are read beside the first tile's products and stay for the second's, as many as
  // registers hold (in pairs, one of every eight rows); the others are read when they are used.
  static constexpr int kPairs = kPart / 8, kOthers = 12;
  static constexpr int kFree = Registers - kOthers - 2 * kSums - kPart / 2 * (kBoth ? 2 : 1);
  static constexpr int kKept = kFree / 2 < kPairs ? kFree / 2 : kPairs;

  float of[2][kSums];

  __device__ MoeTileSums() {
#pragma unroll
    for (int i = 0; i < 2 * kSums; ++i) of[i / kSums][i % kSums] = 0;
  }

  // Adds a unit of BF16: its products stay under way, those of the unit before have ended.
  __device__ void add_bf16(uint64_t w, uint64_t x) {
    device::wgmma_fence();
    mma_bf16_tile(of[0], w, x, true);
    mma_bf16_tile(of[1], device::advanced(w, kTileBytes / 16), x, true);
    device::wgmma_commit();
    device::wgmma_wait<1>();
  }

  // Adds a unit of FP8, whose scales are w_scale[0] and, of this thread's rows, x_scale. Calls
  // read() when the slot has been read, as soon as the last products have ended: between two
  // products stand, but for that, the additions alone.
  template <class Read>
  __device__ void add_fp8(
      uint64_t w, uint64_t x, const float* const (&w_scale)[2], const float* x_scale, Read read
  ) {
    if constexpr (kBoth) {
      add_both(w, x, w_scale, x_scale, read);
    } else {
      add_parts(w, x, w_scale, x_scale, read);
    }
  }

  // After the last unit.
  __device__ void settle() {
    if constexpr (!Fp8) device::wgmma_wait<0>();
    device::pin(of[0]);
    device::pin(of[1]);
  }

 private:
  template <class Read>
  __device__ void add_both(
      uint64_t w, uint64_t x, const float* const (&w_scale)[2], const float* x_scale, Read read
  ) {
    float products[2][kSums];
    float2 kept[kKept];
    device::wgmma_fence();
    start(products[0], w, x);
    start(products[1], device::advanced(w, kTileBytes / 16), x);
    device::wgmma_commit();
    const float scale[2] = {*w_scale[0], *w_scale[1]};
    keep(kept, x_scale);
    device::wgmma_wait<0>();
    device::pin(products[0]);
    device::pin(products[1]);
    read();
    join<0>(of[0], products[0], scale[0], kept, x_scale);
    join<0>(of[1], products[1], scale[1], kept, x_scale);
  }

  template <class Read>
  __device__ void add_parts(
      uint64_t w, uint64_t x, const float* const (&w_scale)[2], const float* x_scale, Read read
  ) {
    constexpr int kSteps = 2 * (Width / kPart);
    float scale[2];
    float2 kept[kKept];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int tile = step % 2, part = step / 2;
      float products[kPart / 2];
      device::wgmma_fence();
      start(
          products,
          device::advanced(w, static_cast<uint32_t>(tile) * (kTileBytes / 16)),
          device::advanced(x, static_cast<uint32_t>(part) * (kPart * kTileRowBytes / 16))
      );
      device::wgmma_commit();
      if (step == 0) {
        scale[0] = *w_scale[0];
        scale[1] = *w_scale[1];
      }
      if (tile == 0) keep(kept, x_scale + part * kPart);
      device::wgmma_wait<0>();
      device::pin(products);
      if (step + 1 == kSteps && kKept == kPairs) read();
      if (part == 0) {
        join<0>(of[tile], products, scale[tile], kept, x_scale);
      } else {
        join<kSums - kPart / 2>(of[tile], products, scale[tile], kept, x_scale + kPart);
      }
      if (step + 1 == kSteps && kKept < kPairs) read();
    }
  }

  // Four steps of 32 bytes of K into a fresh fragment.
  template <int Count>
  __device__ static void start(float (&products)[Count], uint64_t w, uint64_t x) {
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k)
      device::mma_e4m3(products, device::advanced(w, 2 * k), device::advanced(x, 2 * k), k > 0);
  }

  __device__ static void keep(float2 (&kept)[kKept], const float* x_scale) {
#pragma unroll
    for (int j = 0; j < kKept; ++j) kept[j] = *reinterpret_cast<const float2*>(x_scale + 8 * j);
  }

  // sum, from its element First on, += products by the scales of their weights and rows.
  template <int First, int Count>
  __device__ static void join(
      float (&sum)[kSums],
      const float (&products)[Count],
      float w_scale,
      const float2 (&kept)[kKept],
      const float* x_scale
  ) {
#pragma unroll
    for (int j = 0; j < Count / 4; ++j) {
      const float2 scale =
          j < kKept ? kept[j < kKept ? j : 0] : *reinterpret_cast<const float2*>(x_scale + 8 * j);
      const float both[2] = {w_scale * scale.x, w_scale * scale.y};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& of = sum[First + 4 * j + i];
        of = fmaf(both[i % 2], products[4 * j + i], of);
      }
    }
  }
};

// A warp has read a slot for the last time.
template <class Ring>
__device__ __forceinline__ void release_slot(Ring& r, int stage) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) r.empty[stage].arrive();
}

// Adds `units` of the ring; last(stage) before its last is released.
// scale0, scale1: which of a slot's weight scales the two tiles have.
template <bool Fp8, class Sums, class Storage, class Stand, class Last>
__device__ __forceinline__ void add_units(
    Sums& sums, Storage& ring, Stand& at, int units, int scale0, int scale1, Last last
) {
  const int half = __shfl_sync(device::kFullWarp, static_cast<int>(threadIdx.x) / 128, 0);
  const uint64_t x = device::operand_descriptor(ring.x[0]);
  const uint64_t w = device::operand_descriptor(ring.w[0][2 * half]);
  const auto x_of = [&](int stage) {
    return device::advanced(x, static_cast<uint32_t>(stage) * (sizeof(ring.x[0]) / 16));
  };
  const auto w_of = [&](int stage) {
    return device::advanced(w, static_cast<uint32_t>(stage) * (sizeof(ring.w[0]) / 16));
  };
  if constexpr (Fp8) {
    const int column = static_cast<int>(threadIdx.x) % 4 * 2;
    for (int unit = 0; unit < units;) {
      ring.full[at.stage].wait(at.full_parity());
      bool ready;
      do {
        const int stage = at.stage;
        at.advance();
        sums.add_fp8(
            w_of(stage),
            x_of(stage),
            {&ring.w_scale[stage][scale0], &ring.w_scale[stage][scale1]},
            ring.x_scale[stage] + column,
            [&] {
              release_slot(ring, stage);
              ready = ring.full[at.stage].passed(at.full_parity());
            }
        );
        ++unit;
      } while (ready & (unit < units));
    }
    sums.settle();
  } else {
    int held = -1;  // a slot whose products are under way
    for (int unit = 0; unit < units; ++unit) {
      ring.full[at.stage].wait(at.full_parity());
      sums.add_bf16(w_of(at.stage), x_of(at.stage));
      if (held >= 0) release_slot(ring, held);
      held = at.stage;
      at.advance();
    }
    sums.settle();
    last(held);
    release_slot(ring, held);
  }
}

}  // namespace fathom::ops
