// mla_decode, row sm90: the two warpgroups that compute for 64 heads.
//
// The heads are WGMMA's 64-row operand A: S [64, 64 positions] = Q K^T and O [64, 512] += P V, V
// the same panels read transposed. O fills both warpgroups' registers, 256 dims each. Blocks belong
// to them in turn: the owner of a block computes its scores and softmax; both multiply its values,
// the owner with the probabilities in its registers, the other as it finds them where the block's
// rotary panel was, which only the scores need. While one is at its softmax the other multiplies:
// its own values, then the other's, then it starts the scores of its next block.
#pragma once

#include "fathom/ops/attention/mla_halves_sm90.cuh"
#include "fathom/ops/device/matrix_store.cuh"

namespace fathom::ops::mla {

using WideCombine = Combine<HeadsByDims, 64, SharedStorage<64>::kConsumers>;

// Fragments: thread = 32 warp + 4 g + t of its warpgroup holds heads 16 warp + g, + 8 (index h), of
// positions or dims 8 j + 2 t, + 1. Codes: FP8 rows. Grouped: one barrier for what is let go
// together (mla_wide_boxes_sm90.cuh); else one a panel.
template <bool Codes, bool Grouped>
struct WideConsumer {
  using Storage = SharedStorage<64>;
  using Together = WideCombine;
  static constexpr int kScores = kBlock / 2, kSums = kLatent / 4;
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
        wait_for_panel<Codes>(s.full, Place<Storage::kRing>{kSlot<Own>, place.pass}, panel);
      } else if (i % kHalf == 0) {
        s.full[kSlot<Own> + panel].wait(place.pass);
      }
      device::wgmma_fence();
#pragma unroll
      for (uint32_t k = 0; k < 4; ++k) {
        const uint32_t at = static_cast<uint32_t>(panel) * kPanel + 2 * k;
        multiply<Codes>(
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
    if constexpr (Codes) device::fence_shared_for_async();
    fade(s.fade[1 - Own][head], s.fade[1 - Own][head + 8]);
    const uint64_t weights = device::operand_descriptor(s.panel[kSlot<1 - Own>]);
    device::pin(o);
    device::wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < kBlock / 16; ++k)
      multiply_wide<Codes>(
          o,
          device::advanced(weights, 2 * k),
          device::advanced(values<Own>(kSlot<1 - Own>), 128 * k)
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
      multiply_wide<Codes>(o, weight[k], device::advanced(values<Own>(kSlot<Own>), 128 * k));
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

  // Scores of positions that the query does not see become -inf.
  __device__ __forceinline__ void mask(float (&score)[kScores], const Segment& segment, int first)
      const {
    const bool tree = a.step.tree_mask != nullptr;
    const int tree_begin = tree ? segment.length - segment.own : segment.length;
    if (first + kBlock <= min(segment.length, tree_begin)) return;
    const int64_t bits =
        tree ? __ldg(a.step.tree_mask + a.step.first_query + segment.query) : int64_t{0};
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      if (i / 2 % 2 != 0) continue;  // both heads alike
      const int position = first + i / 4 * 8 + 2 * t + i % 2, node = position - tree_begin;
      const bool seen =
          position < segment.length && (node < 0 || (bits >> (node < 64 ? node : 63) & 1) != 0);
      if (!seen) score[i] = score[i + 2] = -INFINITY;
    }
  }

  // FP8 rows: scores of products in units.
  __device__ __forceinline__ float2 units_of(int i
  ) const {  // of the positions of score[i], [i + 1]
    return *reinterpret_cast<const float2*>(&s.unit[own][i / 4 * 8 + 2 * t]);
  }
  __device__ __forceinline__ void scale_units(float (&score)[kScores]) const {
    const float of_head[2] = {s.query_unit[head], s.query_unit[head + 8]};
#pragma unroll
    for (int i = 0; i < kScores; i += 2) {
      const float2 unit = units_of(i);
      score[i] = fmaf(score[i], unit.x * of_head[i / 2 % 2], log2_of(unit.x));
      score[i + 1] = fmaf(score[i + 1], unit.y * of_head[i / 2 % 2], log2_of(unit.y));
    }
  }

  // Scores become probabilities relative to the running maximum, which was `before`; returns what
  // the sums so far count for.
  __device__ __forceinline__ float soften(float (&score)[kScores], int h, float before) {
    const float scale = Codes ? 1.0f : a.scale;
    float raised = -INFINITY;
#pragma unroll
    for (int i = 2 * h; i < kScores; i += 4) raised = fmaxf(raised, fmaxf(score[i], score[i + 1]));
    raised = fmaxf(raised, __shfl_xor_sync(device::kFullWarp, raised, 1));
    raised = fmaxf(raised, __shfl_xor_sync(device::kFullWarp, raised, 2));
    raised *= scale;
    raised = raised > before + kSlack ? raised : before;
    const float base = raised == -INFINITY ? 0.0f : raised;
    float sum = 0;
#pragma unroll
    for (int i = 2 * h; i < kScores; i += 4) {
      const float2 unit = Codes ? units_of(i) : float2{1.0f, 1.0f};
#pragma unroll
      for (int j = i; j < i + 2; ++j) {
        score[j] = device::exp2_approx(fmaf(score[j], scale, -base));
        sum = fmaf(score[j], inverse_of(j == i ? unit.x : unit.y), sum);
      }
    }
    total[h] = fmaf(total[h], device::exp2_approx(maximum[h] - base), sum);
    maximum[h] = raised;
    return device::exp2_approx(before - base);
  }

  // As operand A of the next product, and as [64 heads][64 positions] for the other warpgroup.
  __device__ __forceinline__ void pack(
      const float (&score)[kScores], uint32_t (&weight)[kBlock / 16][4]
  ) const {
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i)
      weight[i / 4][i % 4] = mla::pack<Codes>(score[2 * i], score[2 * i + 1]);
  }
  template <int Own>
  __device__ __forceinline__ void store_weights(const uint32_t (&weight)[kBlock / 16][4]) const {
    // Blocks of a step of 16 positions: heads, heads + 8, and both 8 positions further.
    const int lane = thread % 32, row = thread / 32 * 16 + lane % 16;
    const uint32_t to = device::shared_address(s.panel[kSlot<Own>] + row * 128);
#pragma unroll
    for (int k = 0; k < kBlock / 16; ++k) {
      const uint32_t chunk = static_cast<uint32_t>((2 * k + lane / 16) ^ (row & 7));
      device::store_blocks(to + chunk * 16, weight[k][0], weight[k][1], weight[k][2], weight[k][3]);
    }
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
      // FP8 rows: this block may not be F16 yet; the next needs the room.
      if constexpr (!Codes) multiply_keys<Own, 0, kHalf>(score);
      device::wgmma_wait<Codes ? 0 : 1>();
      end_other<Own>();  // room at once: the ring holds but two blocks
      if constexpr (Codes) multiply_keys<Own, 0, kHalf>(score);
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
    mask(score, segment, first);
    if constexpr (Codes) scale_units(score);
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
    store_weights<Own>(weight);
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
    if constexpr (Codes) halve_queries<64, Together>(s, a.scale);
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
