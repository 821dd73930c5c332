// mla_decode, row sm90: the warps that fill the ring from FP8 rows where pages hold whole boxes
// (mla_decode.h).
//
// A warp turns half the rows of a slice of 128 dims of each block into F16 (mla_halves_sm90.cuh),
// two panels. The codes come by TMA to where the second panel will stand, so that those of the next
// block are on their way meanwhile; a row's four lanes read them all before they write. The rotary
// panel, which comes as it is, and the units of rows are shared by rows, and the warps meet before
// they turn to slices.
#pragma once

#include "fathom/ops/attention/mla_codes_sm90.cuh"

namespace fathom::ops::mla {

template <int Heads>
struct CodeBoxes {
  using Storage = SharedStorage<Heads>;
  static constexpr int kWarps = Storage::kCodeWarps;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kArrivals = kWarps / kSlices;  // at a panel
  static constexpr int kRows = kBlock / kArrivals;    // of a warp's slice
  static constexpr int kShared = kBlock / kWarps;     // rows whose rotary part is a warp's
  static constexpr int kMeeting = 6;                  // named barrier
  Producer<Heads> rest;
  const TensorMap& codes;
  const TensorMap& scales;
  Storage& s = rest.s;
  int warp = static_cast<int>(threadIdx.x - Storage::kConsumers) / 32;
  int lane = static_cast<int>(threadIdx.x) % 32;
  int slice = warp % kSlices, first_row = warp / kSlices * kRows;
  int quarter = lane % 4, odd_row = lane / 4 % 2;

  // Of the block that is turned into F16: its place in the ring and number, and the query to fetch
  // after it, if it is the first of one.
  Place<Storage::kRing> place = rest.place;
  int held = 0, due = -1;

  // What a lane brings of a block: a box of its warp's slice, or, of warp 0, of the rotary part or
  // of the scales; eight lanes for each.
  int kind = lane / 8;
  struct Load {
    Place<Storage::kRing> place;  // of the block
    int number;
    int box, page, row;  // of the lane's box: in the block; where it is read
    bool due;            // not on its way yet
  };

  __device__ __forceinline__ Barrier& raw_rope(int block) const { return s.raw[block % 2][0]; }
  __device__ __forceinline__ Barrier& raw_slice(int block) const {
    return s.raw[block % 2][1 + warp];
  }

  __device__ __forceinline__ void find(Load& load, const Segment& segment, int block) const {
    const Step& step = rest.a.step;
    const int rows = rest.a.box_rows, boxes = (kind == 0 ? kRows : kBlock) / rows;
    load.due = lane % 8 < boxes && (kind == 0 || (warp == 0 && kind < 3));
    load.box = (kind == 0 ? first_row / rows : 0) + min(lane % 8, boxes - 1);
    const int position = min(block * kBlock + load.box * rows, segment.length - 1);
    const int* pages = step.pages + segment.first_page;
    load.page = __ldg(pages + position / step.page);
    load.row = rest.row_of(block, load.box);
  }

  // If there is room, or when there is. Each lane looks for itself.
  __device__ __forceinline__ void start(Load& load, bool wait) const {
    if (load.due) {
      const int panel = kind == 0 ? 2 + 2 * slice : 0, slot = load.place.slot_of(panel);
      const uint32_t pass = load.place.pass_of(panel) ^ 1;
      if (wait) s.empty[slot].wait(pass);
      if (s.empty[slot].passed(pass)) {
        Barrier& raw = kind == 0 ? raw_slice(load.number) : raw_rope(load.number);
        if (lane == 0) raw.arrive_expect(kRows * 128);
        if (lane == 8) raw.arrive_expect(kBlock * (2 * kRope + 4 * kSlices));
        const int first = load.box * rest.a.box_rows;
        void* panel_to = s.panel[slot] + first * 128;
        device::box_load_3d(
            kind == 2 ? s.scales[load.number % 2] + first : panel_to,
            kind == 2 ? scales : codes,
            kind == 0   ? slice * 128
            : kind == 1 ? kRopeAt
                        : kScalesAt,
            load.row,
            load.page,
            raw,
            rest.policy()
        );
        load.due = false;
      }
    }
    __syncwarp();
  }

  __device__ __forceinline__ float& unit(int row) const {
    return s.unit[held % Storage::kUnits][row];
  }
  __device__ __forceinline__ uint4& chunk(int slot, int row, int i) const {
    return *reinterpret_cast<uint4*>(s.panel[slot] + row * 128 + (i ^ (row & 7)) * 16);
  }

  // Own rows of the rotary panel, in the row's unit, which the scales tell too.
  __device__ __forceinline__ void convert_rope() const {
#pragma unroll
    for (int i = 0; i < kShared; i += 8) {
      const int row = warp * kShared + i + lane / 4;
      uint4 own[2];
      __nv_bfloat162 pair = __float2bfloat162_rn(0.0f);
#pragma unroll
      for (int k = 0; k < 2; ++k) {  // even and odd rows in turns: no bank is asked twice
        own[k] = chunk(place.slot, row, quarter + 4 * (k ^ odd_row));
        pair = largest_of(pair, own[k]);
      }
      const float of_row =
          unit_of(fmaxf(largest_of_lanes<4>(pair), largest_code(s.scales[held % 2][row])));
      if (quarter == 0) unit(row) = of_row;
#pragma unroll
      for (int k = 0; k < 2; ++k)
        chunk(place.slot, row, quarter + 4 * (k ^ odd_row)) = halves_of(own[k], inverse_of(of_row));
    }
  }

  // 16 codes of a row: two chunks of a panel.
  __device__ __forceinline__ void expand(int slot, int row, const uint4& from, __half2 factor)
      const {
    const uint2 a = device::scaled_f16(from.x, factor), b = device::scaled_f16(from.y, factor);
    chunk(slot, row, 2 * quarter) = {a.x, a.y, b.x, b.y};
    const uint2 c = device::scaled_f16(from.z, factor), d = device::scaled_f16(from.w, factor);
    chunk(slot, row, 2 * quarter + 1) = {c.x, c.y, d.x, d.y};
  }
  __device__ __forceinline__ void convert_slice() const {
    const int first = place.slot_of(1 + 2 * slice), second = place.slot_of(2 + 2 * slice);
    const int slot[2] = {odd_row == 0 ? first : second, odd_row == 0 ? second : first};
#pragma unroll 1
    for (int base = first_row; base < first_row + kRows; base += 8) {
      const int row = base + lane / 4;
      const auto* of_row = reinterpret_cast<const float*>(&s.scales[held % 2][row]);
      const __half2 factor = __float2half2_rn(of_row[slice] * inverse_of(unit(row)));
      uint4 from[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) from[k] = chunk(second, row, quarter + 4 * (k ^ odd_row));
      __syncwarp();
#pragma unroll
      for (int k = 0; k < 2; ++k) expand(slot[k], row, from[k], factor);
    }
  }

  // The oldest block, beside the start of the next, if that is due.
  __device__ __forceinline__ void convert(Load& next) {
    const uint32_t pass = static_cast<uint32_t>(held / 2 % 2);
    raw_rope(held).wait(pass);
    convert_rope();
    device::named_barrier<kMeeting>(kThreads);  // units are there; scales of the one before free
    if (slice == 0 && lane == 0) s.full[place.slot].arrive();
    start(next, false);
    raw_slice(held).wait(pass);
    const int panel = 1 + 2 * slice;
    s.empty[place.slot_of(panel)].wait(place.pass_of(panel) ^ 1);
    convert_slice();
    __syncwarp();
    if (lane < 2) s.full[place.slot_of(panel + lane)].arrive();
    if (due >= 0 && threadIdx.x == Storage::kConsumers) rest.load_whole_query(due);
    place.advance(kPanels);
    ++held;
    start(next, true);
  }

  __device__ void run() {
    Load load{place, 0, 0, 0, 0, false};
    if (warp == 0) rest.ask_for_first(mla_row_bytes(kLatent, kRope));
    device::wait_for_predecessor();
    rest.cut.for_each_segment(rest.part, [&](const Segment& segment) {
      for (int block = segment.first; block < segment.last; ++block) {
        find(load, segment, block);
        if (load.number == 0) {
          start(load, true);
          if (threadIdx.x == Storage::kConsumers) rest.load_whole_query(segment.query);
        } else {
          convert(load);
          due = block == segment.first ? segment.query : -1;
        }
        load.place.advance(kPanels);
        ++load.number;
      }
    });
    if (load.number > 0) convert(load);
  }
};

}  // namespace fathom::ops::mla
