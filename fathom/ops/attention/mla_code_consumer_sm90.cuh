// mla_decode, row sm90: the two warpgroups that compute for 64 heads of FP8 rows.
//
// Blocks belong to them in turn: the owner computes scores and softmax (mla_code_scores_sm90.cuh)
// and leaves the probabilities where the block's rotary panel was; both multiply its values. So one
// multiplies while the other is at its softmax.
//
// Values: O^T [512, 64] += V^T P^T, operand A from registers. ldmatrix transposes pairs of codes,
// one byte permutation parts them by dims, one conversion makes two positions F16, exactly, times
// their scales over the row's unit (mla_halves_sm90.cuh). O^T fills both warpgroups' registers, 256
// dims each.
#pragma once

#include "fathom/ops/attention/mla_code_scores_sm90.cuh"
#include "fathom/ops/device/matrix_load.cuh"

namespace fathom::ops::mla {

// O^T: dims 2 g, 2 g + 1 of the warp's 16 of each tile of 64, heads 8 j + 2 t, + 1.
template <bool Boxes>
struct WideCodeConsumer : CodeScores<Boxes> {
  using Base = CodeScores<Boxes>;
  using Base::a, Base::cut, Base::group, Base::lane, Base::own, Base::part, Base::place, Base::s;
  using Base::await, Base::await_other, Base::kSteps, Base::head, Base::meet, Base::q_pass;
  using Base::t, Base::total, Base::warp;
  using typename Base::Storage, typename Base::Together;
  static constexpr int kTiles = kLatent / 2 / 64, kSums = 32;

  float o[kTiles][kSums];  // O^T, unscaled

  // The sums so far under a new maximum; most blocks raise none.
  __device__ __forceinline__ void fade(int slot) {
    const float2 some = *reinterpret_cast<const float2*>(&s.fade[slot][2 * lane]);
    if (!__any_sync(device::kFullWarp, some.x != 1.0f || some.y != 1.0f)) return;
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j) {
      const float2 kept = *reinterpret_cast<const float2*>(&s.fade[slot][8 * j + 2 * t]);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        o[i][4 * j] *= kept.x;
        o[i][4 * j + 1] *= kept.y;
        o[i][4 * j + 2] *= kept.x;
        o[i][4 * j + 3] *= kept.y;
      }
    }
  }

  // A tile's codes: 16 dims of this warp, of 64 positions, by pairs of dims and positions.
  struct Codes {
    uint32_t word[2][4];
  };
  __device__ __forceinline__ Codes load_codes(int slot, int tile) const {
    const uint8_t* panel = s.panel[slot][2 * own + tile / 2];
    const int chunk = tile % 2 * 4 + warp;
    const uint32_t from = device::shared_address(panel + lane * 128 + (chunk ^ (lane & 7)) * 16);
    Codes codes;
#pragma unroll
    for (int half = 0; half < 2; ++half)
      device::load_blocks_transposed(from + half * 32 * 128, codes.word[half]);
    return codes;
  }
  // As operand A: even dims, odd dims, and both 8 positions further.
  static __device__ __forceinline__ void expand(
      const Codes& codes, const __half2 (&factor)[kBlock / 8], uint32_t (&value)[kSteps][4]
  ) {
#pragma unroll
    for (int i = 0; i < kBlock / 8; ++i) {
      const uint32_t by_dims = __byte_perm(codes.word[i / 4][i % 4], 0, 0x3120);
      const uint2 pair = device::scaled_f16(by_dims, factor[i]);
      value[i / 2][i % 2 * 2] = pair.x;
      value[i / 2][i % 2 * 2 + 1] = pair.y;
    }
  }

  // The own dims of a block that has its probabilities.
  __device__ __forceinline__ void multiply_values(const Place<Storage::kBlocks>& at) {
    await(at, own);
    Codes codes = load_codes(at.slot, 0);
    fade(at.slot);
    const uint64_t weights = device::operand_descriptor(s.panel[at.slot][kSlices]);
    uint32_t value[2][kSteps][4];
    __half2 factor[kBlock / 8];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      if (i % 2 == 0) {
        const auto* from = reinterpret_cast<const uint4*>(s.factor[at.slot][2 * own + i / 2][t]);
        reinterpret_cast<uint4*>(factor)[0] = from[0];
        reinterpret_cast<uint4*>(factor)[1] = from[1];
      }
      if (i >= 2) device::wgmma_wait<1>();
      expand(codes, factor, value[i % 2]);
      if (i + 1 < kTiles) codes = load_codes(at.slot, i + 1);
      device::pin(o[i]);
      device::wgmma_fence();
#pragma unroll
      for (int k = 0; k < kSteps; ++k)
        device::mma_f16_registers(
            o[i], value[i % 2][k], device::advanced(weights, static_cast<uint32_t>(2 * k))
        );
      device::wgmma_commit();
    }
    device::wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < kTiles; ++i) device::pin(o[i]);
    if (lane == 0) {
      Barrier* empty = s.empty + at.slot * Storage::kGroups;
      empty[own].arrive();
      empty[Storage::kRopeGroup].arrive();
    }
  }

  __device__ __forceinline__ void run_blocks(const Segment& segment) {
#pragma unroll 1
    for (int block = segment.first; block < segment.last; ++block) {
      // So that descriptors are worked out once a warp.
      place.slot = __shfl_sync(device::kFullWarp, place.slot, 0);
      const bool begun = block > segment.first, owner = Storage::owner_of(place) == own;
      if (owner) {
        this->make_weights(segment, block, begun);
      } else if (block + 1 == segment.last) {
        await_other();
      }
      // The owner multiplies the other's block, then its own; the last block is both's.
      int count = owner ? 1 + static_cast<int>(begun) : block + 1 == segment.last ? 1 : 0;
#pragma unroll 1
      for (; count > 0; --count) multiply_values(count == 2 ? before(place) : place);
      place.advance(1);
    }
  }

  // Into shared memory: registers are for the sums.
  __device__ void run_segment(const Segment& of_part) {
    if (threadIdx.x == 0) s.segment = of_part;
    s.q_full.wait(q_pass);
    q_pass ^= 1;
    split_queries<Together>(s, a.scale);
    total[0] = total[1] = 0;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int k = 0; k < kSums; ++k) o[i][k] = 0;
    }
    const Segment& segment = s.segment;
    const int blocks = segment.last - segment.first, owner = Storage::owner_of(place);
    if (blocks == 1 && owner != own && lane == 0) s.q_empty.arrive();
    run_blocks(segment);
    sum_totals((owner + blocks - 1) % 2);
  }

  // Totals and maxima of the segment into s.total[0] and s.maximum[0]; units of the sums.
  __device__ void sum_totals(int last_owner) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float raised = s.maximum[last_owner][head + 8 * h];
      if (total[h] > 0) total[h] *= device::exp2_approx(s.maximum[own][head + 8 * h] - raised);
      total[h] = device::warp_sum<4>(total[h]);
      if (t == 0) s.total[own][head + 8 * h] = total[h];
    }
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j) {
      float2 size{};  // magnitudes
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        size.x += fabsf(o[i][4 * j]) + fabsf(o[i][4 * j + 2]);
        size.y += fabsf(o[i][4 * j + 1]) + fabsf(o[i][4 * j + 3]);
      }
      __nv_bfloat162 sizes = __float22bfloat162_rn(size);
#pragma unroll
      for (int d = 4; d < 32; d *= 2)
        sizes = __hadd2(sizes, __shfl_xor_sync(device::kFullWarp, sizes, d));
      if (lane < 4)
        *reinterpret_cast<__nv_bfloat162*>(&s.size[4 * own + warp][8 * j + 2 * t]) = sizes;
    }
    meet();
    const auto i = static_cast<int>(threadIdx.x);
    if (i < 64) {
      float size = 0;
#pragma unroll
      for (int w = 0; w < 8; ++w) size += __bfloat162float(s.size[w][i]);
      s.sum_unit[i] = unit_of(size);
      s.total[0][i] += s.total[1][i];
      s.maximum[0][i] = s.maximum[last_owner][i];
    }
    meet();
  }

  // f(fragment, index, words) for own fragments of the sums times s.inverse, in pairs.
  template <class Pack, class F>
  __device__ __forceinline__ void for_each_fragment(Pack pack, F f) const {
    const int first_dim = own * (kLatent / 2) + 16 * warp, head_in_pair = lane / 4;
    const int first_index = first_dim / 16 * kWarpgroup + lane;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kSums / 4; j += 2) {
        uint32_t word[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float2 factor =
              *reinterpret_cast<const float2*>(&s.inverse[8 * (j + k % 2) + 2 * t]);
          const float* sum = o[i] + 4 * (j + k % 2) + k / 2 * 2;
          word[k] = device::transpose_block(pack(sum[0] * factor.x, sum[1] * factor.y));
        }
        const HeadsByQuads fragment{{first_dim + 64 * i, head_in_pair + 8 * j, t}};
        f(fragment, first_index + 4 * i * kWarpgroup + 16 * j, word);
      }
    }
  }
  // What the sums are multiplied by, of head `threadIdx.x`.
  template <class F>
  __device__ __forceinline__ void set_inverse(F of_head) const {
    const auto i = static_cast<int>(threadIdx.x);
    if (i < 64) s.inverse[i] = of_head(i);
    meet();
  }

  __device__ void store_whole(const Together& together, const Segment& segment) const {
    together.store_lse(segment, s.maximum[0], s.total[0]);
    set_inverse([&](int i) { return s.total[0][i] > 0 ? 1 / s.total[0][i] : 0.0f; });
    const int token = a.step.first_query + segment.query;
    for_each_fragment(
        [](float x, float y) { return device::pack_bf16(x, y); },
        [&](const HeadsByQuads& fragment, int, const uint32_t(&word)[4]) {
          fragment.store_words(a.output, token, group, word);
        }
    );
    meet();
  }

  __device__ void leave_part(const Together& together, const Segment& segment) const {
    set_inverse([&](int i) { return inverse_of(s.sum_unit[i]); });
    uint4* sums = together.sums_of(segment, part);
    const auto share = together.share_of(segment, part);
    for_each_fragment(
        [](float x, float y) { return pack_f16(x, y); },
        [&](const HeadsByQuads&, int index, const uint32_t(&word)[4]) {
          const uint4 fragment{word[0], word[1], word[2], word[3]};
          if (share.kept && index >= share.from && index < share.to) {
            together.s.kept[index - share.from] = fragment;
          } else {
            __stcg(sums + index, fragment);
          }
        }
    );
    const float unit = s.sum_unit[static_cast<int>(threadIdx.x) % 64];
    together.leave(segment, part, s.maximum[0], s.total[0], unit);
  }

  __device__ void run(const Together& together) {
    device::wait_for_predecessor();
    device::launch_successor();
    cut.for_each_segment(part, [&](const Segment& segment) {
      run_segment(segment);
      s.segment.whole() ? store_whole(together, s.segment) : leave_part(together, s.segment);
    });
  }
};

}  // namespace fathom::ops::mla
