// mha_prefill, row sm90: shared memory, and the warps that fill it.
#pragma once

#include "fathom/ops/attention/prefill_tiles.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/tma.cuh"

namespace fathom::ops::prefill {

using device::Barrier;
using device::Ring;
using device::TensorMap;

constexpr int kPanelBytes = kKeys * 128;  // 128 keys x 64 elements
constexpr int kLoaders = 4;               // warps that bring keys and values
constexpr int kHanded = 2;                // tiles on their way from the producer to the consumers

// Keys of D elements, values of Dv; Groups consumer warpgroups of 64 queries each.
template <int D, int Dv, int Groups, int Stages, bool Turns>
struct Shape {
  static constexpr int kD = D, kDv = Dv, kGroups = Groups, kStages = Stages;
  static constexpr bool kTurns = Turns;
  static constexpr int kQueries = 64 * Groups;
  static constexpr int kConsumers = 128 * Groups;
  static constexpr int kThreads = kConsumers + 128;
  // Registers for a block's weights beside those of the block before.
  static constexpr bool kWeightsTwice = Groups == 2;
  // 64 K registers over the warpgroups.
  static constexpr int kConsumerRegisters = Groups == 2 ? 232 : 160;
  static constexpr int kProducerRegisters = Groups == 2 ? 40 : 32;
};

template <class Shape>
struct SharedStorage {
  static constexpr int kStages = Shape::kStages;
  uint8_t q[Shape::kD / 64][Shape::kQueries * 128];
  uint8_t keys[kStages][Shape::kD / 64][kPanelBytes];
  uint8_t values[kStages][Shape::kDv / 64][kPanelBytes];
  Barrier keys_full[kStages], keys_empty[kStages], values_full[kStages], values_empty[kStages];
  Tile tiles[kHanded];
  Barrier tile_full[kHanded], tile_empty[kHanded];

  // By one thread.
  __device__ void init() {
    constexpr int kWarps = Shape::kConsumers / 32;
    for (int i = 0; i < kStages; ++i) {
      keys_full[i].init(kLoaders / 2);
      values_full[i].init(kLoaders / 2);
      keys_empty[i].init(kWarps);
      values_empty[i].init(kWarps);
    }
    for (int i = 0; i < kHanded; ++i) {
      tile_full[i].init(1);
      tile_empty[i].init(kWarps + kLoaders - 1);
    }
    device::fence_barrier_init();
  }
};

// One of four warps: two bring the keys, two the values, each every other box, since a warp starts
// its lanes' boxes one after the other. The first takes tiles until there are no more and tells all
// the others and the consumers of each.
template <class Shape>
struct Producer {
  const Arguments& a;
  SharedStorage<Shape>& s;
  const TensorMap& keys;
  const TensorMap& values;
  Ring<Shape::kStages> ring{};
  Ring<kHanded> handed{};
  int lane = static_cast<int>(threadIdx.x) % 32;
  int warp = static_cast<int>(threadIdx.x - Shape::kConsumers) / 32;

  __device__ void lead() {
    const TileOrder<Shape::kQueries> order(a);
    const auto ctas = static_cast<int>(gridDim.x);
    int index = static_cast<int>(blockIdx.x);
    while (index < order.tiles) {
      const Tile tile = order.at(index);
      int next = 0;  // asked for now, needed when this tile's loads are under way
      if (lane == 0) next = ctas + static_cast<int>(atomicAdd(a.counter, 1u));
      hand(tile);
      load_tile(tile);
      index = __shfl_sync(device::kFullWarp, next, 0);
    }
    hand(Tile{});
    // Every CTA that had a tile asked once in vain: this was the last to ask.
    if (lane == 0 && index == order.tiles + ctas - 1) *a.counter = 0;
  }

  __device__ void hand(const Tile& tile) {
    s.tile_empty[handed.stage].wait(handed.empty_parity());
    if (lane == 0) {
      s.tiles[handed.stage] = tile;
      s.tile_full[handed.stage].arrive();
    }
    __syncwarp();
    handed.advance();
  }

  __device__ void follow() {
    for (;;) {
      s.tile_full[handed.stage].wait(handed.full_parity());
      const Tile tile = s.tiles[handed.stage];
      __syncwarp();
      if (lane == 0) s.tile_empty[handed.stage].arrive();
      handed.advance();
      if (tile.row < 0) return;
      load_tile(tile);
    }
  }

  __device__ void run() { warp == 0 ? lead() : follow(); }

  __device__ void load_tile(const Tile& tile) {
    if (tile.blocks == 0) return;
    int pages = pages_of(tile, tile.blocks - 1);
    for (int i = tile.blocks - 1; i >= 0; --i) {
      const int pages_below = pages_of(tile, max(i - 1, 0));
      if (warp % 2 == 0) {
        s.keys_empty[ring.stage].wait(ring.empty_parity());
        load_block(keys, s.keys[ring.stage], s.keys_full[ring.stage], tile.head, pages);
      } else {
        s.values_empty[ring.stage].wait(ring.empty_parity());
        load_block(values, s.values[ring.stage], s.values_full[ring.stage], tile.head, pages);
      }
      ring.advance();
      pages = pages_below;
    }
  }

  // Lane i: page i of the tile's block. Beyond the row's end the last page is read again, and
  // masked.
  __device__ int pages_of(const Tile& tile, int block) const {
    const int last = max(a.rows.kv_len[tile.row] - 1, 0) / a.page;
    const int page = (tile.first_block + block) * (kKeys / a.page) + min(lane, kKeys / a.page - 1);
    return a.rows.pages[a.rows.page_begin[tile.row] + min(page, last)];
  }

  // A lane for each box: a page's 64 elements of every key.
  template <int kPanels>
  __device__ void load_block(
      const TensorMap& map,
      uint8_t (&panels)[kPanels][kPanelBytes],
      Barrier& full,
      int head,
      int pages
  ) const {
    const int boxes = kKeys / a.page * kPanels, half = warp / 2, box = 2 * lane + half;
    const int page = box / kPanels, panel = box % kPanels;
    const int id = __shfl_sync(device::kFullWarp, pages, page % 32);
    const int own = (boxes + 1 - half) / 2, box_bytes = a.page * 128;
    if (lane == 0) full.arrive_expect(static_cast<uint32_t>(own * box_bytes));
    __syncwarp();
    if (box < boxes)
      device::box_load_4d(
          panels[panel] + page * box_bytes, map, panel * 64, 0, head, id, full, device::kEvictNormal
      );
  }
};

}  // namespace fathom::ops::prefill
