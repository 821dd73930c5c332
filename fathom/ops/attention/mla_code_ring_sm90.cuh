// mla_decode, row sm90: the ring of FP8 rows in shared memory, 64 heads a CTA, and the warps that
// fill it.
//
// Codes stay what they are until they are multiplied (mla_code_consumer_sm90.cuh): a block is four
// panels of 64 positions x 128 codes, which share a scale, and the rotary panel, BF16: 40 KB, so
// that there are three. What is let go together, the slices of a warpgroup's dims or the rotary
// panel, has one barrier of each kind. Blocks belong to the two warpgroups in turn; a block's owner
// scores the slices of the other's dims first, since those were let go first: the scales come with
// them.
#pragma once

#include "fathom/ops/attention/mla_codes_sm90.cuh"

namespace fathom::ops::mla {

struct CodeStorage {
  static constexpr int kConsumers = 2 * kWarpgroup;
  static constexpr int kBlocks = 3;
  static constexpr int kGroups = 3, kRopeGroup = 2;  // of a block: two pairs of slices, rotary
  static constexpr int kRing = kBlocks * kGroups;    // barriers
  uint8_t panel[kBlocks][kSlices + 1][kPanelBytes];  // rotary last; then the probabilities
  // Panel 0: rotary, BF16; 1 + 2 i, 2 + 2 i: high and low codes of slice i.
  uint8_t q[kPanels][64 * 128];
  alignas(128) float4 scales[kBlocks][kBlock];
  // Scales over the rows' units: of positions 8 j + 2 t, + 1 of a slice at [slice][t][j].
  alignas(16) __half2 factor[kBlocks][kSlices][4][kBlock / 8];
  float fade[kBlocks][64];  // what the sums before a block count for
  // Of each warpgroup's last block: scales, in the same order; the logarithm of rows' units, their
  // inverse; the running maximum with it.
  alignas(16) float scale[2][kSlices][4][kBlock / 4];
  float2 unit[2][kBlock];
  float maximum[2][64];
  float total[2][64];
  float query_unit[64];             // times scale
  __nv_bfloat16 size[8][64];        // sums' magnitudes, of the dims of each warp
  float sum_unit[64], inverse[64];  // of sums; what they are multiplied by
  Barrier full[kRing], empty[kRing], q_full, q_empty;
  Plan plan;
  Segment segment;

  // Whose turn a block is: the place tells how many were before it, odd or even.
  template <int Ring>
  static __device__ __forceinline__ int owner_of(const Place<Ring>& place) {
    return (place.slot / (Ring / kBlocks) + static_cast<int>(place.pass)) % 2;
  }
  // Warps that let go what barrier `i` stands for.
  static __device__ __forceinline__ uint32_t readers(int i) {
    return (i % kGroups == kRopeGroup ? kConsumers : kWarpgroup) / 32;
  }
};

struct WideCodes {
  using Storage = CodeStorage;
  static constexpr int kPair = kSlices / 2;
  Producer<64, CodeStorage> rest;
  const Arguments& a = rest.a;
  Storage& s = rest.s;
  Place<Storage::kRing> place{};

  // The group of slices that is read first.
  __device__ __forceinline__ int first_group() const { return 1 - Storage::owner_of(place); }

  // By one warp: its group of a block, in boxes of at most a page; `pages`: a lane each.
  __device__ __forceinline__ void load_boxes(
      const TensorMap& codes, const TensorMap& scales, int group, int pages, int block
  ) const {
    const int at = place.slot / Storage::kGroups;
    const bool rope = group == Storage::kRopeGroup, scaled = group == first_group();
    Barrier& full = s.full[place.slot + group];
    s.empty[place.slot + group].wait(place.pass ^ 1);
    constexpr int kScaleBytes = kBlock * sizeof(float4);
    if (device::elect_one())
      full.arrive_expect((rope ? 1 : kPair) * kPanelBytes + (scaled ? kScaleBytes : 0));
    const uint64_t policy = rest.policy();
#pragma unroll 1
    for (int box = 0, first = 0; first < kBlock; ++box, first += a.box_rows) {
      const int page = __shfl_sync(device::kFullWarp, pages, box);
      const int row = rest.row_of(block, box);
      if (!device::elect_one()) continue;
      if (scaled)
        device::box_load_3d(s.scales[at] + first, scales, kScalesAt, row, page, full, policy);
#pragma unroll 1
      for (int i = kPair * group; i < (rope ? kSlices + 1 : kPair * (group + 1)); ++i)
        device::box_load_3d(
            s.panel[at][i] + first * 128, codes, rope ? kRopeAt : i * 128, row, page, full, policy
        );
    }
    __syncwarp();
  }
  __device__ void run_boxes(const TensorMap& codes, const TensorMap& scales, int group) {
    rest.for_each_block([&](int pages, int block) {
      load_boxes(codes, scales, group, pages, block);
      place.advance(Storage::kGroups);
    });
  }

  // Four warps; eight lanes carry a row's 128 bytes of a panel. A barrier counts threads whose
  // copies have landed.
  __device__ __forceinline__ void load_rows(const uint8_t* const (&from)[4], int group) const {
    const int thread = static_cast<int>(threadIdx.x) - Storage::kConsumers;
    const int chunk = thread % 8, row = thread / 8, at = place.slot / Storage::kGroups;
    const bool rope = group == Storage::kRopeGroup;
    s.empty[place.slot + group].wait(place.pass ^ 1);
    for (int i = kPair * group; i < (rope ? kSlices + 1 : kPair * (group + 1)); ++i) {
      uint8_t* to = s.panel[at][i] + row * 128 + (chunk ^ (row & 7)) * 16;
#pragma unroll
      for (int k = 0; k < 4; ++k)
        device::copy_16_async(to + k * 16 * 128, from[k] + (rope ? kRopeAt : i * 128) + chunk * 16);
    }
    if (group == first_group() && chunk == 0) {
#pragma unroll
      for (int k = 0; k < 4; ++k)
        device::copy_16_async(&s.scales[at][row + 16 * k], from[k] + kScalesAt);
    }
    device::arrive_after_copies(s.full[place.slot + group]);
  }
  __device__ void run_rows() {
    const int thread = static_cast<int>(threadIdx.x) - Storage::kConsumers;
    bool first_segment = true;
    device::wait_for_predecessor();
    rest.cut.for_each_segment(rest.part, [&](const Segment& segment) {
      const int* pages = a.step.pages + segment.first_page;
      if (first_segment && thread == 0) rest.load_whole_query(segment.query);
      for (int block = segment.first; block < segment.last; ++block) {
        const uint8_t* from[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int position = min(block * kBlock + thread / 8 + 16 * k, segment.length - 1);
          const int page = __ldg(pages + position / a.step.page);
          from[k] = a.kv + page * a.page_bytes + position % a.step.page * a.row_bytes;
        }
        load_rows(from, first_group());
        load_rows(from, 1 - first_group());
        load_rows(from, Storage::kRopeGroup);
        place.advance(Storage::kGroups);
        if (!first_segment && block == segment.first && thread == 0)
          rest.load_whole_query(segment.query);
      }
      first_segment = false;
    });
  }
};

}  // namespace fathom::ops::mla
