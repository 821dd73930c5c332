// mla_decode, row sm90: the ring of key panels in shared memory and the warps that fill it.
#pragma once

#include "fathom/ops/attention/mla_combine.cuh"
#include "fathom/ops/attention/mla_letters.cuh"
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
  Partials partials;  // 64 heads
  uint32_t* mail;     // 16 and 32 heads
  const uint8_t* kv;
  int64_t page_bytes, row_bytes;  // from a page, a row, to the next
  int groups;
  Parts parts;
  Divisor page;  // positions
  int box_rows;  // positions of a box of a page
  int cluster;   // 2: CTAs in pairs, for two groups of heads, bring keys for both
  float scale;   // x log2 e
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
  // Of the segment's sums: magnitudes (of the dims of each warp), unit, what they count for.
  alignas(4) __nv_bfloat16 size[4][Heads];
  alignas(8) float inverse_unit[Heads];
  float2 statistic[Heads];
  float fade[Heads];                // what the sums so far count for under the new maximum
  static constexpr int kUnits = 3;  // blocks, the last of which the ring holds in part
  static constexpr int kCodeWarps = 8;
  alignas(128) float4 scales[2][kBlock];  // of FP8 rows
  float unit[kUnits][kBlock];             // of FP8 rows as F16
  float query_unit[Heads];                // the same of queries, times scale
  Barrier full[kRing], empty[kRing], q_full, q_empty;
  Barrier raw[2][1 + kCodeWarps];  // of FP8 rows by boxes
  Plan plan;
  Shares shares;

  // Warps that let go a panel.
  static __device__ __forceinline__ uint32_t readers(int) { return kWarpgroup / 32; }
};

// 64 heads of BF16 rows: two warpgroups in turns (mla_wide_sm90.cuh). Two blocks, so that a block's
// panels lie in a row.
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
  __nv_bfloat16 size[2][64];  // sums' magnitudes, of the dims of each warpgroup
  Barrier full[kRing], empty[kRing], q_full, q_empty;
  Plan plan;

  static __device__ __forceinline__ uint32_t readers(int) { return kWarpgroup / 32; }
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
// One step before.
template <int Ring>
__device__ __forceinline__ Place<Ring> before(const Place<Ring>& place) {
  return place.slot > 0 ? Place<Ring>{place.slot - 1, place.pass}
                        : Place<Ring>{Ring - 1, place.pass ^ 1};
}

template <int Heads, class StorageOf = SharedStorage<Heads>>
struct Producer {
  using Storage = StorageOf;
  const Arguments& a;
  Storage& s;
  const Cut& cut;
  int part, group;
  const TensorMap& q_latent;
  const TensorMap& q_rope;
  // run_boxes: this warp's panels of a block. The boxes of a warp's lanes start one after the
  // other, so that three warps are faster.
  int first_panel, panels;
  Place<Storage::kRing> place{};
  uint32_t q_pass = 0;

  // This lane's panel of the queries. The heads beyond the last are zeros.
  __device__ __forceinline__ void load_query_panel(int panel, int token) const {
    const bool rope = panel == 0;
    device::box_load_3d(
        s.q[panel],
        rope ? q_rope : q_latent,
        rope ? 0 : column_of(panel),
        group * Heads,
        token,
        s.q_full,
        device::kEvictFirst
    );
  }
  // By one warp for its panels.
  __device__ __forceinline__ void load_query(const Segment& segment, int lane) {
    s.q_empty.wait(q_pass ^ 1);
    q_pass ^= 1;
    if (first_panel == 0 && lane == 0) s.q_full.arrive_expect(kPanels * Heads * 128);
    if (lane < panels) load_query_panel(first_panel + lane, a.step.first_query + segment.query);
    __syncwarp();
  }
  // By one warp that brings no panels, whose others do not load the part's first query.
  __device__ void load_first_query() {
    if (part < cut.parts && device::elect_one()) load_whole_query(cut.plan.first_query);
    __syncwarp();
  }
  // By one thread.
  __device__ void load_whole_query(int query) {
    s.q_empty.wait(q_pass ^ 1);
    q_pass ^= 1;
    s.q_full.arrive_expect(kPanels * Heads * 128);
    for (int i = 0; i < kPanels; ++i) load_query_panel(i, a.step.first_query + query);
  }

  // Of keys: whether another CTA reads them too.
  __device__ __forceinline__ uint64_t policy() const {
    const bool once = a.groups == a.cluster && a.step.queries <= a.step.sequences;
    return once ? device::kEvictFirst : device::kEvictNormal;
  }

  // Where box `box` of a block begins in its page.
  __device__ __forceinline__ int row_of(int block, int box) const {
    const int position = block * kBlock + box * a.box_rows;
    return a.step.page < kBlock ? 0 : position - a.page.quotient(position) * a.page.by;
  }

  // This warp's panels of a block, in boxes of at most a page; `pages`: a lane each.
  __device__ void load_boxes(const TensorMap& kv, int pages, int block, uint64_t policy) {
#pragma unroll 1
    for (int panel = first_panel; panel < first_panel + panels; ++panel) {
      const int slot = place.slot_of(panel);
      s.empty[slot].wait(place.pass_of(panel) ^ 1);
      if (device::elect_one()) s.full[slot].arrive_expect(kPanelBytes);
#pragma unroll 1
      for (int box = 0; box < kBlock / a.box_rows; ++box) {
        const int page = __shfl_sync(device::kFullWarp, pages, box);
        if (!device::elect_one()) continue;
        uint8_t* to = s.panel[slot] + box * a.box_rows * 128;
        device::box_load_3d(
            to, kv, column_of(panel), row_of(block, box), page, s.full[slot], policy
        );
      }
      __syncwarp();
    }
  }

  // By one warp: load(pages, block) of each block, `pages` of its boxes a lane each, and the
  // queries after the first. Positions beyond the sequence's end read the last page again; they are
  // masked.
  template <class Load>
  __device__ __forceinline__ void for_each_block(Load load) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = min(lane * a.box_rows, kBlock - a.box_rows);  // of this lane's box
    bool first_segment = true;
    cut.for_each_segment(part, [&](const Segment& segment) {
      const int* pages = a.step.pages + segment.first_page;
      const auto page_of = [&](int block) {
        const int position = block * kBlock + row;
        return __ldg(pages + a.page.quotient(min(position, segment.length - 1)));
      };
      int next = page_of(segment.first);
      if (first_segment) {
        device::wait_for_predecessor();
        q_pass ^= 1;
      }
      for (int block = segment.first; block < segment.last; ++block) {
        const int now = next;
        if (block + 1 < segment.last) next = page_of(block + 1);
        load(now, block);
        // After a first block: the consumers let the last query go when its last scores are done.
        if (!first_segment && block == segment.first) load_query(segment, lane);
      }
      first_segment = false;
    });
    if (first_segment) device::wait_for_predecessor();
  }
  __device__ void run_boxes(const TensorMap& kv) {
    const uint64_t keep = policy();
    for_each_block([&](int pages, int block) {
      load_boxes(kv, pages, block, keep);
      place.advance(kPanels);
    });
  }

  // By one warp, before the predecessor has ended: the first block's rows towards L2, of groups
  // that read the same keys some each. A hint and no read: what the predecessor still writes of
  // them it writes to L2. Where parts are longer it costs more than it brings.
  __device__ void ask_for_first(uint32_t row_size = 2 * (kLatent + kRope)) const {
    constexpr int kMostBlocks = 4;
    // Where most processors have a part, CTAs start when the predecessor has all but ended.
    if (cut.each > kMostBlocks || 2 * cut.parts > a.parts.most.by) return;
    bool asked = false;
    cut.for_each_segment(part, [&](const Segment& segment) {
      if (asked) return;
      asked = true;
      const int* pages = a.step.pages + segment.first_page;
      const int first = segment.first * kBlock, rows = min(kBlock, segment.length - first);
      const int lane = static_cast<int>(threadIdx.x) % 32;
      for (int row = lane * a.groups + group; row < rows; row += 32 * a.groups) {
        const int page = __ldg(pages + (first + row) / a.step.page);
        const int64_t at = page * a.page_bytes + (first + row) % a.step.page * a.row_bytes;
        device::prefetch_l2(a.kv + at, row_size);
      }
    });
  }

  // Four warps; eight lanes carry a row's 128 bytes of a panel. A panel is handed over when kLag
  // later ones are on their way, or when there is no room for the next.
  __device__ void run_rows() {
    constexpr int kLag = 6;
    const int thread = static_cast<int>(threadIdx.x) - Storage::kConsumers;
    const int chunk = thread % 8, row = thread / 8;
    Place<Storage::kRing> arrived = place;
    int ahead = 0;
    bool first_segment = true;
    if (thread < 32) ask_for_first();
    device::wait_for_predecessor();
    const auto hand_over = [&] {
      device::fence_shared_for_async();
      s.full[arrived.slot].arrive();
      arrived.advance(1);
    };
    const auto hand_over_all = [&] {
      device::wait_copies<0>();
      for (; ahead > 0; --ahead) hand_over();
    };
    cut.for_each_segment(part, [&](const Segment& segment) {
      const int* pages = a.step.pages + segment.first_page;
      if (first_segment && thread == 0) load_whole_query(segment.query);
      for (int block = segment.first; block < segment.last; ++block) {
        const uint8_t* from[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int position = min(block * kBlock + row + 16 * i, segment.length - 1);
          const int page = __ldg(pages + position / a.step.page);
          from[i] = a.kv + page * a.page_bytes + position % a.step.page * a.row_bytes + chunk * 16;
        }
        for (int panel = 0; panel < kPanels; ++panel) {
          if (!s.empty[place.slot].passed(place.pass ^ 1)) {
            hand_over_all();
            s.empty[place.slot].wait(place.pass ^ 1);
          }
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
        if (!first_segment && block == segment.first && thread == 0)
          load_whole_query(segment.query);
      }
      first_segment = false;
    });
    hand_over_all();
  }
};

}  // namespace fathom::ops::mla
