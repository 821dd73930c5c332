// mla_decode, row sm90: the ring of key panels in shared memory and the warps that fill it.
#pragma once

#include "fathom/ops/attention/mla_combine.cuh"
#include "fathom/ops/attention/mla_split.cuh"
#include "fathom/ops/device/async_copy.cuh"
#include "fathom/ops/device/mbarrier.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/tma.cuh"

namespace fathom::ops::mla {

using device::Barrier;
using device::TensorMap;

constexpr int kRope = 64;
// Panels of a block, in the ring's order: first the rotary part, which only the scores need and
// which is free again soonest, then eight of the latent.
constexpr int kPanels = 9;
constexpr int kLatentPanels = 8;
constexpr int kPanelBytes = kBlock * 128;

// Where panel `panel` stands in a row of the cache.
__device__ __forceinline__ int column_of(int panel) {
  return panel == 0 ? kLatent : (panel - 1) * 64;
}

struct Arguments {
  Step step;
  Output output;
  Partials partials;
  const uint8_t* kv;
  int64_t page_bytes, row_bytes;  // from a page, a row, to the next
  int groups, parts;
  float scale;  // x log2 e
};

// 16 or 32 heads: one warpgroup computes (mla_consumer_sm90.cuh).
template <int Heads>
struct SharedStorage {
  static constexpr int kConsumers = kWarpgroup;
  static constexpr int kRing = Heads == 16 ? 24 : 22;
  uint8_t panel[kRing][kPanelBytes];
  uint8_t q[kPanels][Heads * 128];
  uint8_t p[Heads * 128];
  float maximum[4][Heads];  // of the positions of each warp
  float total[4][Heads];
  float fade[Heads];  // what the sums so far count for under the new maximum
  Barrier full[kRing], empty[kRing], q_full, q_empty;
  Plan plan;
};

// 64 heads: two warpgroups in turns (mla_wide_sm90.cuh). Two blocks, so that a block's panels lie
// in a row.
template <>
struct SharedStorage<64> {
  static constexpr int kConsumers = 2 * kWarpgroup;
  static constexpr int kRing = 2 * kPanels;
  uint8_t panel[kRing][kPanelBytes];
  uint8_t q[kPanels][64 * 128];
  // Of each warpgroup's last block: the running maximum with it, and what the sums before it count
  // for under that.
  float maximum[2][64];
  float fade[2][64];
  float total[2][64];
  Barrier full[kRing], empty[kRing], q_full, q_empty;
  Plan plan;
};

// A place in the ring of panels, moving by whole blocks.
template <int Ring>
struct Place {
  int slot = 0;       // of the block's first panel
  uint32_t pass = 0;  // parity of the passes over the ring

  __device__ __forceinline__ int slot_of(int panel) const {
    return slot + panel < Ring ? slot + panel : slot + panel - Ring;
  }
  __device__ __forceinline__ uint32_t pass_of(int panel) const {
    return slot + panel < Ring ? pass : pass ^ 1;
  }
  __device__ __forceinline__ void advance(int panels) {
    pass = pass_of(panels);
    slot = slot_of(panels);
  }
};

template <int Heads>
struct Producer {
  using Storage = SharedStorage<Heads>;
  const Arguments& a;
  Storage& s;
  const Cut& cut;
  int part, group;
  const TensorMap& q_latent;
  const TensorMap& q_rope;
  // run_boxes: this warp's panels of a block. The boxes of a warp's lanes start one after the
  // other, so that three warps with three each are faster where there are three.
  int first_panel, panels;
  Place<Storage::kRing> place{};
  uint32_t q_pass = 0;

  // By one thread. The heads beyond the last are zeros.
  __device__ void load_query(const Segment& segment) {
    const int token = a.step.first_query + segment.query, head = group * Heads;
    s.q_empty.wait(q_pass ^ 1);
    q_pass ^= 1;
    s.q_full.arrive_expect(kPanels * Heads * 128);
    for (int i = 0; i < kLatentPanels; ++i)
      device::box_load_3d(s.q[1 + i], q_latent, i * 64, head, token, s.q_full, device::kEvictFirst);
    device::box_load_3d(s.q[0], q_rope, 0, head, token, s.q_full, device::kEvictFirst);
  }

  // This warp's panels of a block, a lane each, in boxes of at most a page.
  __device__ void load_boxes(const TensorMap& kv, int pages, int rows, int first_row) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int panel = first_panel + (lane < panels ? lane : 0), slot = place.slot_of(panel);
    if (lane < panels) {
      s.empty[slot].wait(place.pass_of(panel) ^ 1);
      s.full[slot].arrive_expect(kPanelBytes);
    }
    __syncwarp();
    const uint64_t policy = a.groups == 1 ? device::kEvictFirst : device::kEvictNormal;
    for (int box = 0; box * rows < kBlock; ++box) {
      const int page = __shfl_sync(device::kFullWarp, pages, box);
      if (lane < panels) {
        device::box_load_3d(
            s.panel[slot] + box * rows * 128,
            kv,
            column_of(panel),
            first_row,
            page,
            s.full[slot],
            policy
        );
      }
    }
  }

  // One warp. Positions beyond the sequence's end read the last page again; they are masked.
  __device__ void run_boxes(const TensorMap& kv) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int rows = min(a.step.page, kBlock), boxes = kBlock / rows;
    bool first_segment = true;
    cut.for_each_segment(part, [&](const Segment& segment) {
      const int* pages = a.step.pages + __ldg(a.step.page_begin + segment.sequence);
      const auto page_of = [&](int block) {
        const int position = block * kBlock + min(lane, boxes - 1) * rows;
        return __ldg(pages + min(position, segment.length - 1) / a.step.page);
      };
      int next = page_of(segment.first);
      if (first_segment) device::wait_for_predecessor();
      if (first_segment && lane == 0 && first_panel == 0) load_query(segment);
      for (int block = segment.first; block < segment.last; ++block) {
        const int now = next;
        if (block + 1 < segment.last) next = page_of(block + 1);
        load_boxes(kv, now, rows, block * kBlock % a.step.page);
        place.advance(kPanels);
        // After a first block: the consumers let the last query go when its last scores are done.
        if (!first_segment && block == segment.first && lane == 0 && first_panel == 0)
          load_query(segment);
        __syncwarp();
      }
      first_segment = false;
    });
    if (first_segment) device::wait_for_predecessor();
  }

  // Four warps; eight lanes carry a row's 128 bytes of a panel. A panel is handed over when kLag
  // later ones are on their way.
  __device__ void run_rows() {
    constexpr int kLag = 6;
    const int thread = static_cast<int>(threadIdx.x) - Storage::kConsumers;
    const int chunk = thread % 8, row = thread / 8;
    Place<Storage::kRing> arrived = place;
    int ahead = 0;
    bool first_segment = true;
    device::wait_for_predecessor();
    const auto hand_over = [&] {
      device::fence_shared_for_async();
      s.full[arrived.slot].arrive();
      arrived.advance(1);
    };
    cut.for_each_segment(part, [&](const Segment& segment) {
      const int* pages = a.step.pages + __ldg(a.step.page_begin + segment.sequence);
      if (first_segment && thread == 0) load_query(segment);
      for (int block = segment.first; block < segment.last; ++block) {
        const uint8_t* from[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int position = min(block * kBlock + row + 16 * i, segment.length - 1);
          const int page = __ldg(pages + position / a.step.page);
          from[i] = a.kv + page * a.page_bytes + position % a.step.page * a.row_bytes + chunk * 16;
        }
        for (int panel = 0; panel < kPanels; ++panel) {
          s.empty[place.slot].wait(place.pass ^ 1);
          uint8_t* to = s.panel[place.slot] + row * 128 + (chunk ^ (row & 7)) * 16;
#pragma unroll
          for (int i = 0; i < 4; ++i)
            device::copy_16_async(to + i * 16 * 128, from[i] + 2 * column_of(panel));
          device::commit_copies();
          place.advance(1);
          if (++ahead > kLag) {
            device::wait_copies<kLag>();
            hand_over();
            --ahead;
          }
        }
        if (!first_segment && block == segment.first && thread == 0) load_query(segment);
      }
      first_segment = false;
    });
    device::wait_copies<0>();
    for (; ahead > 0; --ahead) hand_over();
  }
};

}  // namespace fathom::ops::mla
