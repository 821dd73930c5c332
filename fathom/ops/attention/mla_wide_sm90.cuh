// mla_decode, row sm90: the two warpgroups that compute for 64 heads of BF16 rows.
//
// The heads are WGMMA's 64-row operand A: S [64, 64 positions] = Q K^T and O [64, 512] += P V, V
// the same panels read transposed. O fills both warpgroups' registers, 256 dims each. Blocks belong
// to them in turn: the owner of a block computes its scores and softmax; both multiply its values,
// the owner with the probabilities in its registers, the other as it finds them where the block's
// rotary panel was, which only the scores need. While one is at its softmax the other multiplies:
// its own values, then the other's, then it starts the scores of its next block.
#pragma once

#include "fathom/ops/attention/mla_ring_sm90.cuh"
#include "fathom/ops/attention/mla_wide_scores.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/mma_wide_sm90.cuh"

namespace fathom::ops::mla {

using WideCombine = Combine<HeadsByDims, 64, SharedStorage<64>::kConsumers>;

// Fragments: mla_wide_scores.cuh; of O alike, dims for positions. Grouped: one barrier for what is
// let go together (mla_wide_boxes_sm90.cuh); else one a panel.
template <bool Grouped>
struct WideConsumer {
  using Storage = SharedStorage<64>;
  using Together = WideCombine;
  static constexpr int kScores = kWideScores, kSums = kLatent / 4;
  static constexpr int kHalf = kLatentPanels / 2;  // panels of a warpgroup's dims
  // Under a maximum that is up to 2^kSlack times too small probabilities are as exact.
  static constexpr float kSlack = 8.0f;
  const Arguments& a;
  Storage& s;
  const Cut& cut;
  int part, group;
  Place<Storage::kRing> place{};
  uint32_t q_pass = 0;
  int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  int own = __shfl_sync(device::kFullWarp, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  int head = thread / 32 * 16 + thread % 32 / 4, t = thread % 4;

  float o[kSums];              // unscaled
  float maximum[2], total[2];  // as of the last own block; of own blocks and own positions

  static __device__ __forceinline__ void meet() { Together::meet(); }
  template <int Own>
  static __device__ __forceinline__ void meet_warpgroup() {
    device::named_barrier<1 + Own>(kWarpgroup);
  }

  // The owner's block has its probabilities: one tells, the other waits.
  template <int Own>
  static __device__ __forceinline__ void publish() {
    device::give_turn(4 + Own, Storage::kConsumers);
  }
  template <int Own>
  static __device__ __forceinline__ void await_other() {
    device::named_barrier<5 - Own>(Storage::kConsumers);
  }

  __device__ __forceinline__ int owner() const { return place.slot / kPanels; }
  template <int Own>
  static constexpr int kSlot = Own* kPanels;  // of blocks

  // `count` panels from ring slot `first` are read no more by this warp, which is the last to read
  // them: latent panels are let go by the warpgroup of their dims, a rotary panel by the one that
  // takes the probabilities from there.
  __device__ __forceinline__ void release(int first, int count) const {
    const int lane = thread % 32;
    if (lane < (Grouped ? 1 : count)) s.empty[first + lane].arrive();
    if (Grouped && a.cluster > 1 && lane == 8) s.empty[first].let_go_at(device::cluster_rank() ^ 1);
  }
  template <int Own>
  __device__ __forceinline__ void release_half(int slot) const {
    release(slot + 1 + Own * kHalf, kHalf);
  }

  // The panels of the own dims come first: they are there first. From to To of them, a group.
  template <int Own, int From, int To>
  __device__ __forceinline__ void multiply_keys(float (&score)[kScores]) const {
    const uint64_t queries = device::operand_descriptor(s.q[0]);
    const uint64_t keys = device::operand_descriptor(s.panel[kSlot<Own>]);
    constexpr uint32_t kPanel = kPanelBytes / 16;
#pragma unroll
    for (int i = From; i < To; ++i) {
      const int panel = i == kLatentPanels ? 0 : 1 + (i + Own * kHalf) % kLatentPanels;
      if constexpr (!Grouped) {
        s.full[kSlot<Own> + panel].wait(place.pass);
      } else if (i % kHalf == 0) {
        s.full[kSlot<Own> + panel].wait(place.pass);
      }
      device::wgmma_fence();
#pragma unroll
      for (uint32_t k = 0; k < 4; ++k) {
        const uint32_t at = static_cast<uint32_t>(panel) * kPanel + 2 * k;
        device::mma_bf16(
            score, device::advanced(queries, at), device::advanced(keys, at), i + k > 0
        );
      }
    }
    device::wgmma_commit();
  }

  template <int Own>
  __device__ __forceinline__ uint64_t values(int slot) const {
    return device::transposed_descriptor(s.panel[slot + 1 + Own * kHalf], kPanelBytes);
  }

  // The own dims of the other's block, which is the one before: once its probabilities are there.
  template <int Own>
  __device__ __forceinline__ void start_other() {
    const uint32_t pass = Own == 1 ? place.pass : place.pass ^ 1;
#pragma unroll
    for (int i = 0; i < (Grouped ? 1 : kHalf); ++i)
      s.full[kSlot<1 - Own> + 1 + Own * kHalf + i].wait(pass);
    await_other<Own>();
    fade(s.fade[1 - Own][head], s.fade[1 - Own][head + 8]);
    const uint64_t weights = device::operand_descriptor(s.panel[kSlot<1 - Own>]);
    device::pin(o);
    device::wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < kBlock / 16; ++k)
      device::mma_bf16_wide<true>(
          o,
          device::advanced(weights, 2 * k),
          device::advanced(values<Own>(kSlot<1 - Own>), 128 * k),
          true
      );
    device::wgmma_commit();
  }
  template <int Own>
  __device__ __forceinline__ void end_other() {
    device::pin(o);
    release_half<Own>(kSlot<1 - Own>);
    release(kSlot<1 - Own>, 1);
  }

  template <int Own>
  __device__ __forceinline__ void follow() {
    start_other<Own>();
    device::wgmma_wait<0>();
    end_other<Own>();
  }

  // The own dims of the own block.
  template <int Own>
  __device__ __forceinline__ void multiply_own(const uint32_t (&weight)[kBlock / 16][4]) {
    device::pin(o);
    device::wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < kBlock / 16; ++k)
      device::mma_bf16_wide_registers(
          o, weight[k], device::advanced(values<Own>(kSlot<Own>), 128 * k)
      );
    device::wgmma_commit();
    device::wgmma_wait<0>();
    device::pin(o);
    release_half<Own>(kSlot<Own>);
  }

  // The sums so far under a new maximum; most blocks raise none.
  __device__ __forceinline__ void fade(float x, float y) {
    if (!__any_sync(device::kFullWarp, x != 1.0f || y != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < kSums; ++i) o[i] *= i / 2 % 2 == 0 ? x : y;
  }

  // Scores become probabilities relative to the running maximum, which was `before`; returns what
  // the sums so far count for.
  __device__ __forceinline__ float soften(float (&score)[kScores], int h, float before) {
    float raised = largest_score(score, h) * a.scale;
    raised = raised > before + kSlack ? raised : before;
    const float base = raised == -INFINITY ? 0.0f : raised;
    float sum = 0;
#pragma unroll
    for (int i = 2 * h; i < kScores; i += 4) {
#pragma unroll
      for (int j = i; j < i + 2; ++j) {
        score[j] = device::exp2_approx(fmaf(score[j], a.scale, -base));
        sum += score[j];
      }
    }
    total[h] = fmaf(total[h], device::exp2_approx(maximum[h] - base), sum);
    maximum[h] = raised;
    return device::exp2_approx(before - base);
  }

  // As operand A of the next product.
  __device__ __forceinline__ void pack(
      const float (&score)[kScores], uint32_t (&weight)[kBlock / 16][4]
  ) const {
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i)
      weight[i / 4][i % 4] = device::pack_bf16(score[2 * i], score[2 * i + 1]);
  }
  // Rows beyond the keys hold anything, also NaN, which a probability of zero does not silence.
  template <int Own>
  __device__ __forceinline__ void clear_rows(int from) const {
    const int chunks = (kBlock - from) * 8;
    for (int i = thread; i < chunks * kLatentPanels; i += kWarpgroup)
      *reinterpret_cast<uint4*>(
          s.panel[kSlot<Own> + 1 + i / chunks] + from * 128 + i % chunks * 16
      ) = uint4{};
  }

  // An own block; Begun: the query has blocks before it in this part.
  template <int Own, bool Begun>
  __device__ __forceinline__ void attend(const Segment& segment, int block) {
    float score[kScores], before[2] = {-INFINITY, -INFINITY}, kept[2];
    uint32_t weight[kBlock / 16][4];
    if constexpr (Begun) {
      start_other<Own>();
      multiply_keys<Own, 0, kHalf>(score);
      device::wgmma_wait<1>();
      end_other<Own>();  // room at once: the ring holds but two blocks
      before[0] = s.maximum[1 - Own][head];
      before[1] = s.maximum[1 - Own][head + 8];
    } else {
      multiply_keys<Own, 0, kHalf>(score);
    }
    multiply_keys<Own, kHalf, kPanels>(score);
    device::wgmma_wait<0>();
    device::pin(score);
    if (block + 2 >= segment.last && thread % 32 == 0) s.q_empty.arrive();
    const int first = block * kBlock;
    mask_scores(score, a.step, segment, first, t);
#pragma unroll
    for (int h = 0; h < 2; ++h) kept[h] = soften(score, h, before[h]);
    pack(score, weight);
    if (t == 0) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        s.maximum[Own][head + 8 * h] = maximum[h];
        s.fade[Own][head + 8 * h] = kept[h];
      }
    }
    meet_warpgroup<Own>();  // all have read the rotary panel
    store_weights(s.panel[kSlot<Own>], weight);
    if (segment.length - first < kBlock) {
      clear_rows<Own>(segment.length - first);
      device::fence_shared_for_async();
      meet_warpgroup<Own>();
    }
    device::fence_shared_for_async();
    publish<Own>();
    fade(kept[0], kept[1]);
    multiply_own<Own>(weight);
  }

  // The blocks of a segment, from and to the same place for both warpgroups.
  template <int Own>
  __device__ __forceinline__ void run_blocks(const Segment& segment) {
    int block = segment.first;
    if (owner() == Own) {
      attend<Own, false>(segment, block++);
      place.advance(kPanels);
    }
    for (; block + 1 < segment.last; block += 2) {
      place.advance(kPanels);
      attend<Own, true>(segment, block + 1);
      place.advance(kPanels);
    }
    if (block < segment.last) {
      place.advance(kPanels);
      follow<Own>();
    }
  }

  __device__ void run_segment(const Segment& segment) {
    s.q_full.wait(q_pass);
    q_pass ^= 1;
    maximum[0] = maximum[1] = -INFINITY;
    total[0] = total[1] = 0;
#pragma unroll
    for (int i = 0; i < kSums; ++i) o[i] = 0;
    const int blocks = segment.last - segment.first, last_owner = (owner() + blocks - 1) % 2;
    if (blocks == 1 && owner() != own && thread % 32 == 0) s.q_empty.arrive();
    own == 0 ? run_blocks<0>(segment) : run_blocks<1>(segment);
    sum_totals(last_owner);
  }

  // The sum of all magnitudes of head h.
  __device__ __forceinline__ float size_of(int h) const {
    float size[2] = {};
#pragma unroll
    for (int i = 2 * h; i < kSums; i += 4) {
      size[0] += fabsf(o[i]);
      size[1] += fabsf(o[i + 1]);
    }
    return device::warp_sum<4>(size[0] + size[1]);
  }

  // Totals and maxima of the segment into s.total[0] and s.maximum[0]; the sums' magnitudes.
  __device__ void sum_totals(int last_owner) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float size = size_of(h);
      if (t == 0) s.size[own][head + 8 * h] = __float2bfloat16_rn(size);
      const float raised = last_owner == own ? maximum[h] : s.maximum[1 - own][head + 8 * h];
      total[h] *= device::exp2_approx(maximum[h] - (raised == -INFINITY ? 0.0f : raised));
      total[h] += __shfl_xor_sync(device::kFullWarp, total[h], 1);
      total[h] += __shfl_xor_sync(device::kFullWarp, total[h], 2);
      if (t == 0) s.total[own][head + 8 * h] = total[h];
    }
    meet();
    const auto i = static_cast<int>(threadIdx.x);
    if (i < 64) {
      s.total[0][i] += s.total[1][i];
      s.maximum[0][i] = s.maximum[last_owner][i];
    }
    meet();
  }

  __device__ void store_whole(const Together& together, const Segment& segment) const {
    together.store_lse(segment, s.maximum[0], s.total[0]);
    const float x = s.total[0][head], z = s.total[0][head + 8];
    const float inverse[2] = {x > 0 ? 1 / x : 0.0f, z > 0 ? 1 / z : 0.0f};
    const int first = group * 64 + head;
    __nv_bfloat16* out = a.output.out +
                         (a.step.first_query + segment.query) * a.output.token_stride +
                         first * a.output.head_stride + (own * (kSums / 4) + t) * 8;
    // Four quads at a time: 8 dims of each belong to the four lanes of a head.
#pragma unroll
    for (int j = 0; j < kSums / 4; j += 4) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint32_t word[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* v = o + 4 * (j + i) + 2 * h;
          word[i] = device::pack_bf16(v[0] * inverse[h], v[1] * inverse[h]);
        }
        device::transpose_of_four(word, t);
        if (first + 8 * h < a.output.heads)
          *reinterpret_cast<uint4*>(out + 8 * h * a.output.head_stride + 8 * j) =
              uint4{word[0], word[1], word[2], word[3]};
      }
    }
    meet();
  }

  __device__ __forceinline__ float unit_of_head(int i) const {
    return unit_of(__bfloat162float(s.size[0][i]) + __bfloat162float(s.size[1][i]));
  }

  __device__ void leave_part(const Together& together, const Segment& segment) const {
    const float2 inverse_unit{inverse_of(unit_of_head(head)), inverse_of(unit_of_head(head + 8))};
    uint4* sums = together.sums_of(segment, part);
    const auto share = together.share_of(segment, part);
#pragma unroll
    for (int j = 0; j < kSums / 8; ++j) {
      const uint4 fragment = HeadsByDims::pack(o + 8 * j, inverse_unit);
      const int index = (own * (kSums / 8) + j) * kWarpgroup + thread;
      if (share.kept && index >= share.from && index < share.to) {
        together.s.kept[index - share.from] = fragment;
      } else {
        __stcg(sums + index, fragment);
      }
    }
    const float unit = unit_of_head(static_cast<int>(threadIdx.x) % 64);
    together.leave(segment, part, s.maximum[0], s.total[0], unit);
  }

  __device__ void run(const Together& together) {
    device::wait_for_predecessor();
    device::launch_successor();
    cut.for_each_segment(part, [&](const Segment& segment) {
      run_segment(segment);
      segment.whole() ? store_whole(together, segment) : leave_part(together, segment);
    });
  }
};

}  // namespace fathom::ops::mla
