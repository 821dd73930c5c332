// mha_prefill, row sm90: shared memory, and the warps that fill it.
#pragma once

#include "fathom/ops/attention/prefill_tiles.cuh"
#include "fathom/ops/device/fragment_box.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/tma.cuh"

namespace fathom::ops::prefill {

using device::Barrier;
using device::Ring;
using device::TensorMap;

constexpr int kPanelBytes = kKeys * 128;  // 128 keys x 64 elements
constexpr int kLoaders = 4;               // warps that bring keys and values
constexpr int kHanded = 2;                // tiles on their way from the producer to the consumers

// Slots of keys and of values; boxes of 64 outputs a warpgroup.
struct Slots {
  int keys, values, outputs;
};

// Keys of D elements, values of Dv; Groups consumer warpgroups of 64 queries each.
template <int D, int Dv, int Groups, Slots Places, bool Turns>
struct Shape {
  static constexpr int kD = D, kDv = Dv, kGroups = Groups;
  static constexpr Slots kSlots = Places;
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
  static constexpr Slots kSlots = Shape::kSlots;
  uint8_t q[Shape::kD / 64][Shape::kQueries * 128];
  uint8_t keys[kSlots.keys][Shape::kD / 64][kPanelBytes];
  uint8_t values[kSlots.values][Shape::kDv / 64][kPanelBytes];
  uint8_t y[Shape::kGroups][kSlots.outputs][device::kBoxBytes];
  Barrier keys_full[kSlots.keys], keys_empty[kSlots.keys];
  Barrier values_full[kSlots.values], values_empty[kSlots.values];
  Barrier first_keys;  // once: they are there
  Barrier q_full[Shape::kGroups];
  Tile tiles[kHanded];
  Barrier tile_full[kHanded], tile_empty[kHanded];
  Row last_rows[32];

  // By one thread.
  __device__ void init() {
    constexpr int kWarps = Shape::kConsumers / 32;
    for (int i = 0; i < kSlots.keys; ++i) {
      keys_full[i].init(kLoaders / 2);
      keys_empty[i].init(kWarps);
    }
    for (int i = 0; i < kSlots.values; ++i) {
      values_full[i].init(kLoaders / 2);
      values_empty[i].init(kWarps);
    }
    first_keys.init(1);
    for (Barrier& full : q_full) full.init(1);
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
  Ring<Shape::kSlots.keys> key_ring{};
  Ring<Shape::kSlots.values> value_ring{};
  Ring<kHanded> handed{};
  int lane = static_cast<int>(threadIdx.x) % 32;
  int warp = static_cast<int>(threadIdx.x - Shape::kConsumers) / 32;

  __device__ void lead() {
    const TileOrder<Shape::kQueries> order(a, s.last_rows);
    const auto ctas = static_cast<int>(gridDim.x);
    int index = static_cast<int>(blockIdx.x);
    while (index < order.tiles) {
      const Tile tile = order.at(index);
      hand(tile);
      load_tile(tile);
      // Asked for when few blocks are left, so that who ends first takes the next tile.
      if (lane == 0) index = ctas + static_cast<int>(atomicAdd(a.counter, 1u));
      index = __shfl_sync(device::kFullWarp, index, 0);
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
      if (tile.queries == 0) return;
      load_tile(tile);
    }
  }

  __device__ void run() { warp == 0 ? lead() : follow(); }

  // Where rows and pages are is known before the step begins, so it is looked up before the wait.
  __device__ void load_tile(const Tile& tile) {
    int pages = tile.blocks > 0 ? pages_of(tile, tile.blocks - 1) : 0;
    device::wait_for_predecessor();
    for (int i = tile.blocks - 1; i >= 0; --i) {
      const int pages_below = pages_of(tile, max(i - 1, 0));
      if (warp % 2 == 0) {
        load_block(keys, s.keys, s.keys_full, s.keys_empty, key_ring, tile.head, pages);
        await_first_keys();
      } else {
        await_first_keys();
        load_block(values, s.values, s.values_full, s.values_empty, value_ring, tile.head, pages);
      }
      pages = pages_below;
    }
  }

  // All CTAs start at once: were all their slots asked for, the first keys would come last.
  __device__ void await_first_keys() {
    if (warp % 2 == 1) return s.first_keys.wait(0);
    if (s.first_keys.passed(0)) return;
    s.keys_full[0].wait(0);
    if (warp == 0 && lane == 0) s.first_keys.arrive();
    __syncwarp();
  }

  // Lane i: page i of the tile's block. Beyond the row's end the last page is read again, and
  // masked.
  __device__ int pages_of(const Tile& tile, int block) const {
    const int pages = kKeys >> a.log2_page;  // of a block
    const int page = (tile.first_block + block) * pages + min(lane, pages - 1);
    return a.rows.pages[tile.first_page + min(page, tile.last_page)];
  }

  // A lane for each box: a page's 64 elements of every key.
  template <int kStages, int kPanels>
  __device__ void load_block(
      const TensorMap& map,
      uint8_t (&slots)[kStages][kPanels][kPanelBytes],
      Barrier (&full)[kStages],
      Barrier (&empty)[kStages],
      Ring<kStages>& ring,
      int head,
      int pages
  ) const {
    const int boxes = (kKeys >> a.log2_page) * kPanels, half = warp / 2, box = 2 * lane + half;
    const int page = box / kPanels, panel = box % kPanels;
    const int id = __shfl_sync(device::kFullWarp, pages, page % 32);
    const int own = (boxes + 1 - half) / 2, box_bytes = 128 << a.log2_page;
    empty[ring.stage].wait(ring.empty_parity());
    if (lane == 0) full[ring.stage].arrive_expect(static_cast<uint32_t>(own * box_bytes));
    __syncwarp();
    if (box < boxes)
      device::box_load_4d(
          slots[ring.stage][panel] + page * box_bytes,
          map,
          panel * 64,
          0,
          head,
          id,
          full[ring.stage],
          device::kEvictNormal
      );
    ring.advance();
  }
};

}  // namespace fathom::ops::prefill
