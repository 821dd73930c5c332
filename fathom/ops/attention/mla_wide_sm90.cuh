// mla_decode, row sm90: the two warpgroups that compute for 64 heads.
//
// The heads are WGMMA's 64-row operand A: S [64, 64 positions] = Q K^T and O [64, 512] += P V, V
// the same panels read transposed. O fills both warpgroups' registers, 256 dims each. Blocks belong
// to them in turn: the owner of a block computes its scores and softmax; both multiply its values,
// the other before its own next scores: the ring holds two blocks, and the sooner there is room for
// the next but one, the sooner that is on its way from DRAM. Probabilities go where the block's
// rotary panel was, which only the scores need.
#pragma once

#include "fathom/ops/attention/mla_ring_sm90.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/mma_wide_sm90.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops::mla {

// Fragments: thread = 32 warp + 4 g + t of its warpgroup holds heads 16 warp + g and, 8 further, of
// positions or dims 8 j + 2 t, + 1. Index h: which of the two heads.
struct WideConsumer {
  using Storage = SharedStorage<64>;
  using Together = Combine<HeadsByDims, 64, Storage::kConsumers>;
  static constexpr int kScores = kBlock / 2, kSums = kLatent / 4;
  static constexpr int kHalf = kLatentPanels / 2;  // panels of a warpgroup's dims
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
  float maximum[2], total[2];  // with the last own block; of own blocks and own positions

  static __device__ __forceinline__ void meet() { Together::meet(); }
  __device__ __forceinline__ void meet_warpgroup() const {
    device::named_barrier(1 + own, kWarpgroup);
  }

  // The owner's block has its probabilities and fades: one tells, the other waits.
  __device__ __forceinline__ void publish() const {
    device::give_turn(4 + own, Storage::kConsumers);
  }
  __device__ __forceinline__ void await_other() const {
    device::named_barrier(5 - own, Storage::kConsumers);
  }

  __device__ __forceinline__ int owner() const { return place.slot / kPanels; }
  __device__ __forceinline__ int slot_before() const { return kPanels - place.slot; }

  // `count` panels from ring slot `first` are read no more by this warp.
  __device__ __forceinline__ void release(int first, int count) const {
    const int lane = thread % 32;
    if (lane < count) s.empty[first + lane].arrive();
  }
  // The latent panels of the own dims, or of the other's.
  __device__ __forceinline__ void release_half(int slot, int warpgroup) const {
    release(slot + 1 + warpgroup * kHalf, kHalf);
  }

  __device__ __forceinline__ void multiply_keys(float (&score)[kScores]) const {
    const uint64_t queries = device::operand_descriptor(s.q[0]);
    const uint64_t keys = device::operand_descriptor(s.panel[place.slot]);
    constexpr uint32_t kPanel = kPanelBytes / 16;
#pragma unroll
    for (uint32_t panel = 0; panel < kPanels; ++panel) {
      s.full[place.slot + static_cast<int>(panel)].wait(place.pass);
      device::wgmma_fence();
#pragma unroll
      for (uint32_t k = 0; k < 4; ++k) {
        const uint32_t at = panel * kPanel + 2 * k;
        device::mma_bf16(
            score, device::advanced(queries, at), device::advanced(keys, at), panel + k > 0
        );
      }
    }
    device::wgmma_commit();
  }

  // The own dims of the block in ring slots from `slot`.
  __device__ __forceinline__ void multiply_values(int slot) {
    const uint64_t weights = device::operand_descriptor(s.panel[slot]);
    const uint64_t values =
        device::transposed_descriptor(s.panel[slot + 1 + own * kHalf], kPanelBytes);
    device::pin(o);
    device::wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < kBlock / 16; ++k)
      device::mma_bf16_wide<true>(
          o, device::advanced(weights, 2 * k), device::advanced(values, 128 * k), true
      );
    device::wgmma_commit();
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
    const int tree_begin = tree ? first_position(a.step, segment.sequence) : segment.length;
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

  // Scores become probabilities relative to the running maximum, which was `before`; returns what
  // the sums so far count for.
  __device__ __forceinline__ float soften(float (&score)[kScores], int h, float before) {
    float raised = -INFINITY;
#pragma unroll
    for (int i = 2 * h; i < kScores; i += 4) raised = fmaxf(raised, fmaxf(score[i], score[i + 1]));
    raised = fmaxf(raised, __shfl_xor_sync(device::kFullWarp, raised, 1));
    raised = fmaxf(raised, __shfl_xor_sync(device::kFullWarp, raised, 2));
    raised = fmaxf(before, raised * a.scale);
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

  // [64 heads][64 positions], swizzled as WGMMA reads it.
  __device__ __forceinline__ void store_weights(const float (&score)[kScores]) const {
    uint8_t* rows = s.panel[place.slot] + head * 128 + 4 * t;
#pragma unroll
    for (int j = 0; j < kBlock / 8; ++j) {
      uint8_t* to = rows + (j ^ (head & 7)) * 16;
      *reinterpret_cast<uint32_t*>(to) = device::pack_bf16(score[4 * j], score[4 * j + 1]);
      *reinterpret_cast<uint32_t*>(to + 8 * 128) =
          device::pack_bf16(score[4 * j + 2], score[4 * j + 3]);
    }
  }

  // Rows beyond the keys hold anything, also NaN, which a probability of zero does not silence.
  __device__ __forceinline__ void clear_rows(int from) const {
    const int chunks = (kBlock - from) * 8;
    for (int i = thread; i < chunks * kLatentPanels; i += kWarpgroup)
      *reinterpret_cast<uint4*>(
          s.panel[place.slot + 1 + i / chunks] + from * 128 + i % chunks * 16
      ) = uint4{};
  }

  // The other's block, which is the one before: once its probabilities are there.
  __device__ __forceinline__ void follow() {
    await_other();
    const uint32_t pass = place.slot == 0 ? place.pass ^ 1 : place.pass;
    for (int i = 0; i < kHalf; ++i) s.full[slot_before() + 1 + own * kHalf + i].wait(pass);
    release_half(slot_before(), 1 - own);
    fade(s.fade[1 - own][head], s.fade[1 - own][head + 8]);
    multiply_values(slot_before());
    device::wgmma_wait<0>();
    device::pin(o);
    release(slot_before(), 1);
    release_half(slot_before(), own);
  }

  // An own block; Begun: the query has blocks before it in this part.
  template <bool Begun>
  __device__ __forceinline__ void attend(const Segment& segment, int block) {
    float score[kScores], before[2] = {-INFINITY, -INFINITY}, kept[2];
    if constexpr (Begun) {
      follow();
      before[0] = s.maximum[1 - own][head];
      before[1] = s.maximum[1 - own][head + 8];
    }
    multiply_keys(score);
    device::wgmma_wait<0>();
    device::pin(score);
    release_half(place.slot, 1 - own);
    if (block + 2 >= segment.last && thread % 32 == 0) s.q_empty.arrive();
    meet_warpgroup();  // all have read the rotary panel
    const int first = block * kBlock;
    mask(score, segment, first);
#pragma unroll
    for (int h = 0; h < 2; ++h) kept[h] = soften(score, h, before[h]);
    store_weights(score);
    if (t == 0) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        s.maximum[own][head + 8 * h] = maximum[h];
        s.fade[own][head + 8 * h] = kept[h];
      }
    }
    if (segment.length - first < kBlock) clear_rows(segment.length - first);
    device::fence_shared_for_async();
    meet_warpgroup();
    publish();
    fade(kept[0], kept[1]);
    multiply_values(place.slot);
    device::wgmma_wait<0>();
    device::pin(o);
    release(place.slot, 1);
    release_half(place.slot, own);
  }

  __device__ void run_segment(const Segment& segment) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      maximum[h] = -INFINITY;
      total[h] = 0;
    }
#pragma unroll
    for (int i = 0; i < kSums; ++i) o[i] = 0;
    s.q_full.wait(q_pass);
    q_pass ^= 1;
    const int blocks = segment.last - segment.first, last_owner = (owner() + blocks - 1) % 2;
    if (blocks == 1 && owner() != own && thread % 32 == 0) s.q_empty.arrive();
    int block = segment.first;
    if (owner() == own) {
      attend<false>(segment, block++);
      place.advance(kPanels);
    }
    for (; block + 1 < segment.last; block += 2) {
      place.advance(kPanels);
      attend<true>(segment, block + 1);
      place.advance(kPanels);
    }
    if (block < segment.last) {
      place.advance(kPanels);
      follow();
    }
    sum_totals(last_owner);
  }

  // Totals and maxima of the segment into s.total[0] and s.maximum[0].
  __device__ void sum_totals(int last_owner) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float raised = s.maximum[last_owner][head + 8 * h];
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

  // This thread's quads: of o[4 j] on.
  __device__ __forceinline__ int quad_of(int j) const {
    return (own * (kSums / 4) + j) * kWarpgroup + thread;
  }

  __device__ void store_whole(const Together& together, const Segment& segment) const {
    together.store_lse(segment, s.maximum[0], s.total[0]);
    const float x = s.total[0][head], z = s.total[0][head + 8];
    const float inverse[2] = {x > 0 ? 1 / x : 0.0f, z > 0 ? 1 / z : 0.0f};
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j) {
      const float* v = o + 4 * j;
      HeadsByDims::at(quad_of(j))
          .store(
              a.output,
              a.step.first_query + segment.query,
              group,
              {v[0] * inverse[0], v[1] * inverse[0], v[2] * inverse[1], v[3] * inverse[1]}
          );
    }
    meet();
  }

  __device__ void leave_part(const Together& together, const Segment& segment) const {
    float4* sums = together.sums_of(segment, part);
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j) {
      const float* v = o + 4 * j;
      __stcg(sums + quad_of(j), float4{v[0], v[1], v[2], v[3]});
    }
    together.leave(segment, part, s.maximum[0], s.total[0]);
  }

  __device__ void run() {
    Together together{
        a.output,
        a.partials,
        cut,
        *reinterpret_cast<CombineScratch<64>*>(s.panel),
        a.groups,
        group,
        a.step.first_query};
    device::wait_for_predecessor();
    device::launch_successor();
    cut.for_each_segment(part, [&](const Segment& segment) {
      run_segment(segment);
      segment.whole() ? store_whole(together, segment) : leave_part(together, segment);
    });
    together.end(part, a.parts);
  }
};

}  // namespace fathom::ops::mla
