// mla_decode, row sm90: the warps that fill the ring from FP8 rows (mla_decode.h).
//
// A slice is 128 dims of a block, which share a scale: two panels. A thread copies codes, 16 at a
// time, to where the first half of the F16 values that they become will stand
// (mla_halves_sm90.cuh), and turns them into those in place when they have landed: what it reads is
// its own, so that no warp waits for another. The copies of one block are under way. The consumers
// fence what they wait for.
#pragma once

#include "fathom/ops/attention/mla_halves_sm90.cuh"
#include "fathom/ops/device/fp8.cuh"

namespace fathom::ops::mla {

constexpr int kSlices = kLatent / 128;
constexpr int kScalesAt = kLatent, kRopeAt = kLatent + 4 * kSlices;  // bytes, in a row

// The largest that a row's codes stand for.
__device__ __forceinline__ float largest_code(const float4& scales) {
  return device::kLargestE4m3 * fmaxf(fmaxf(scales.x, scales.y), fmaxf(scales.z, scales.w));
}

// 16 and 32 heads. Four lanes carry a row's 64 codes of a panel: thread = 4 row + quarter. Eight
// warps, so that two share a scheduler. Item 0 of a block: the rotary panel; items 1 to 4: its
// slices.
template <int Heads>
struct CodeProducer {
  using Storage = SharedStorage<Heads>;
  static constexpr int kThreads = 2 * kWarpgroup;
  static constexpr int kItems = 1 + kSlices;
  Producer<Heads> rest;
  Storage& s = rest.s;
  int thread = static_cast<int>(threadIdx.x) - Storage::kConsumers;
  int row = thread / 4, quarter = thread % 4;

  const uint8_t* from = nullptr;
  Place<Storage::kRing> issued = rest.place, arrived = rest.place;
  int next = 0, ahead = 0;    // item to hand over; items under way
  int issuing = 0, held = 0;  // blocks before the one issued, handed over

  static __device__ __forceinline__ int panels_of(int item) { return item == 0 ? 1 : 2; }

  // Where chunk `chunk` of this thread's row stands in a panel.
  __device__ __forceinline__ uint8_t* at(int slot, int chunk) const {
    return s.panel[slot] + row * 128 + (chunk ^ (row & 7)) * 16;
  }

  __device__ __forceinline__ bool has_room(int item) const {
    return s.empty[issued.slot].passed(issued.pass ^ 1) &&
           (item == 0 || s.empty[issued.slot_of(1)].passed(issued.pass_of(1) ^ 1));
  }
  __device__ __forceinline__ void wait_for_room(int item) const {
    s.empty[issued.slot].wait(issued.pass ^ 1);
    if (item > 0) s.empty[issued.slot_of(1)].wait(issued.pass_of(1) ^ 1);
  }

  __device__ __forceinline__ void issue(int item) {
    if (item == 0 && quarter == 0)
      device::copy_16_async(&s.scales[issuing % 2][row], from + kScalesAt);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (item == 0) {
        const int chunk = quarter + 4 * half;
        device::copy_16_async(at(issued.slot, chunk), from + kRopeAt + chunk * 16);
      } else {
        device::copy_16_async(
            at(issued.slot_of(half), 2 * quarter),
            from + (item - 1) * 128 + half * 64 + quarter * 16
        );
      }
    }
    device::commit_copies();
    issued.advance(panels_of(item));
    if (item + 1 == kItems) ++issuing;
    ++ahead;
  }

  __device__ __forceinline__ float& unit() const {
    return s.unit[held % Storage::kUnits][row];
  }

  // Own part of the rotary panel becomes F16, in the row's unit, which the scales tell too.
  __device__ __forceinline__ void expand_rope() const {
    __syncwarp();  // the scales are there
    uint4 own[2];
    __nv_bfloat162 pair = __float2bfloat162_rn(0.0f);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      own[half] = *reinterpret_cast<const uint4*>(at(arrived.slot, quarter + 4 * half));
      pair = largest_of(pair, own[half]);
    }
    const float codes = largest_code(s.scales[held % 2][row]);
    const float of_row = unit_of(fmaxf(largest_of_lanes<4>(pair), codes));
    if (quarter == 0) unit() = of_row;
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<uint4*>(at(arrived.slot, quarter + 4 * half)) =
          halves_of(own[half], inverse_of(of_row));
  }

  // Own codes of a slice become values.
  __device__ __forceinline__ void expand(int slice) const {
    const auto* scales = reinterpret_cast<const float*>(&s.scales[held % 2][row]);
    const __half2 factor = __float2half2_rn(scales[slice] * inverse_of(unit()));
    uint4 codes[2];
#pragma unroll
    for (int half = 0; half < 2; ++half)
      codes[half] = *reinterpret_cast<const uint4*>(at(arrived.slot_of(half), 2 * quarter));
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int slot = arrived.slot_of(half);
      const uint2 a = device::scaled_f16(codes[half].x, factor);
      const uint2 b = device::scaled_f16(codes[half].y, factor);
      const uint2 c = device::scaled_f16(codes[half].z, factor);
      const uint2 d = device::scaled_f16(codes[half].w, factor);
      *reinterpret_cast<uint4*>(at(slot, 2 * quarter)) = {a.x, a.y, b.x, b.y};
      *reinterpret_cast<uint4*>(at(slot, 2 * quarter + 1)) = {c.x, c.y, d.x, d.y};
    }
  }

  // The oldest item under way, which has landed: each warp arrives.
  __device__ __forceinline__ void hand_over() {
    next == 0 ? expand_rope() : expand(next - 1);
    __syncwarp();  // also: units are there, scales free
    if (thread % 32 == 0) {
      s.full[arrived.slot].arrive();
      if (next > 0) s.full[arrived.slot_of(1)].arrive();
    }
    arrived.advance(panels_of(next));
    --ahead;
    if (++next < kItems) return;
    next = 0;
    ++held;
  }

  // Until there is room for an item, and fewer than a block's are under way.
  __device__ __forceinline__ void make_room(int item) {
    for (;;) {
      const bool room = __all_sync(device::kFullWarp, has_room(item));
      if (room && ahead < kItems) return;
      if (ahead == 0) return wait_for_room(item);
      room ? device::wait_copies<kItems - 1>() : device::wait_copies<0>();
      hand_over();
    }
  }

  __device__ void run() {
    const Step& step = rest.a.step;
    bool first_segment = true;
    if (thread < 32) rest.ask_for_first(mla_row_bytes(kLatent, kRope));
    device::wait_for_predecessor();
    rest.cut.for_each_segment(rest.part, [&](const Segment& segment) {
      const int* pages = step.pages + segment.first_page;
      if (first_segment && thread == 0) rest.load_whole_query(segment.query);
      for (int block = segment.first; block < segment.last; ++block) {
        const int position = min(block * kBlock + row, segment.length - 1);
        const int page = __ldg(pages + position / step.page);
        from = rest.a.kv + page * rest.a.page_bytes + position % step.page * rest.a.row_bytes;
        for (int item = 0; item < kItems; ++item) {
          make_room(item);
          issue(item);
        }
        // The consumers have all of the last segment then: only this block is under way.
        if (!first_segment && block == segment.first && thread == 0)
          rest.load_whole_query(segment.query);
      }
      first_segment = false;
    });
    device::wait_copies<0>();
    while (ahead > 0) hand_over();
  }
};

}  // namespace fathom::ops::mla
