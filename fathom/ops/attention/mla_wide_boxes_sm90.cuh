// mla_decode, row sm90: the warps that fill the ring of 64 heads by TMA boxes.
//
// 64 heads wait for the way of a block into their ring of two, so that next to nothing is left to
// do between room and the start of a load: what the consumers let go together, the four panels of a
// warpgroup's dims or the rotary panel, has one barrier of each kind, at the place of its first
// panel, and one warp, which starts boxes of two panels. Of a pair of CTAs each brings two panels
// of four, and the rotary panel of every other block, for both.
#pragma once

#include "fathom/ops/attention/mla_ring_sm90.cuh"

namespace fathom::ops::mla {

struct WideBoxes {
  using Storage = SharedStorage<64>;
  static constexpr int kHalf = kLatentPanels / 2;
  Producer<64> rest;         // of this warp: a warpgroup's panels, or the rotary panel
  const TensorMap& pairs;    // of boxes of two panels of a block that lies in one page
  const TensorMap& singles;  // of boxes of one panel, of a block or a smaller page
  const Arguments& a = rest.a;
  Storage& s = rest.s;
  int lane = static_cast<int>(threadIdx.x) % 32;
  int rank = a.cluster == 1 ? 0 : static_cast<int>(device::cluster_rank());
  uint64_t policy = rest.policy();
  Place<Storage::kRing> place{};

  // Panels as they follow one another in a row of the cache: the rotary one last.
  template <bool kPaired>
  __device__ __forceinline__ void start(
      const TensorMap& map, uint8_t* to, int row, int panel, int page, Barrier& full
  ) const {
    if constexpr (kPaired) {
      device::box_load_multicast_4d(to, map, 0, row, panel, page, full, 3, policy);
    } else {
      device::box_load_4d(to, map, 0, row, panel, page, full, policy);
    }
  }

  // Whether this CTA brings the rotary panel.
  template <bool kPaired>
  __device__ __forceinline__ bool brings_rope() const {
    return !kPaired || (place.slot == 0) == (rank == 0);
  }

  // This warp's panels of a block that lies in one page.
  template <bool kPaired>
  __device__ __forceinline__ void load_whole(int page, int row) {
    const int first = place.slot + rest.first_panel;
    Barrier &empty = s.empty[first], &full = s.full[first];
    const uint32_t pass = place.pass ^ 1;
    if (rest.first_panel == 0) {
      const bool own = brings_rope<kPaired>();
      empty.wait(pass);
      if (device::elect_one()) {
        full.arrive_expect(kPanelBytes);
        if (own) start<kPaired>(singles, s.panel[first], row, kLatentPanels, page, full);
      }
    } else {
      const int offset = kPaired ? 2 * rank : 0, panel = rest.first_panel - 1 + offset;
      uint8_t* to = s.panel[first + offset];
      empty.wait(pass);
      if (device::elect_one()) {
        full.arrive_expect(kHalf * kPanelBytes);
        start<kPaired>(pairs, to, row, panel, page, full);
        if constexpr (!kPaired)
          start<kPaired>(pairs, to + 2 * kPanelBytes, row, panel + 2, page, full);
      }
    }
    __syncwarp();
  }

  // The same where a block has several pages: `pages`, a lane each.
  template <bool kPaired>
  __device__ __forceinline__ void load_parts(int pages, int boxes) {
    const int first = place.slot + rest.first_panel;
    const bool rope = rest.first_panel == 0;
    const int offset = kPaired && !rope ? 2 * rank : 0;
    const int end =
        rope ? static_cast<int>(brings_rope<kPaired>()) : offset + (kPaired ? 2 : kHalf);
    Barrier& full = s.full[first];
    s.empty[first].wait(place.pass ^ 1);
    if (device::elect_one()) full.arrive_expect(static_cast<uint32_t>(rest.panels) * kPanelBytes);
    __syncwarp();
    for (int box = 0; box < boxes; ++box) {
      const int page = __shfl_sync(device::kFullWarp, pages, box);
      if (device::elect_one()) {
#pragma unroll 1
        for (int i = offset; i < end; ++i)
          start<kPaired>(
              singles,
              s.panel[first + i] + box * a.box_rows * 128,
              0,
              rope ? kLatentPanels : rest.first_panel - 1 + i,
              page,
              full
          );
      }
      __syncwarp();
    }
  }

  // One warp. Positions beyond the sequence's end read the last page again; they are masked.
  template <bool kPaired>
  __device__ __forceinline__ void run_blocks() {
    const int boxes = kBlock / a.box_rows;
    bool first_segment = true;
    rest.cut.for_each_segment(rest.part, [&](const Segment& segment) {
      const int* pages = a.step.pages + segment.first_page;
      const int last_page = a.page.quotient(segment.length - 1);
      // Of this lane's box of the next block.
      const int first = segment.first * kBlock, page_of_first = a.page.quotient(first);
      int row = boxes > 1 ? 0 : first - page_of_first * a.page.by;
      int at = boxes > 1 ? segment.first * boxes + min(lane, boxes - 1) : page_of_first;
      int next = __ldg(pages + min(at, last_page));
      if (first_segment) {
        device::wait_for_predecessor();
        rest.q_pass ^= 1;
      }
      for (int block = segment.first; block < segment.last; ++block) {
        const int page = next, from = row;
        if (boxes > 1) {
          at += boxes;
        } else if ((row += kBlock) == a.step.page) {
          row = 0;
          ++at;
        }
        next = __ldg(pages + min(at, last_page));
        boxes > 1 ? load_parts<kPaired>(page, boxes) : load_whole<kPaired>(page, from);
        place.advance(kPanels);
        // After a first block: the consumers let the last query go when its last scores are done.
        if (!first_segment && block == segment.first) rest.load_query(segment, lane);
      }
      first_segment = false;
    });
    if (first_segment) device::wait_for_predecessor();
  }

  __device__ void run() {
    a.cluster > 1 ? run_blocks<true>() : run_blocks<false>();
  }
};

}  // namespace fathom::ops::mla
