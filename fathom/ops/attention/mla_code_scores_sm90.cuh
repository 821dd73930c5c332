// mla_decode, row sm90, 64 heads of FP8 rows: queries as codes, scores and softmax.
//
// Codes of keys are WGMMA's operand B as they lie: S [64, 64 positions] = Q K^T in FP8. A BF16
// query is two codes, the high and the low part of its eight bits, in a unit of its head that makes
// the largest 2^7 to 2^8: exact, but for what is 2^9 times smaller. The sums of a slice of 128
// dims, of some 14 bits, are added up as floats, times its scale. The rotary part is a product of
// BF16.
#pragma once

#include "fathom/ops/attention/mla_code_ring_sm90.cuh"
#include "fathom/ops/attention/mla_wide_scores.cuh"

namespace fathom::ops::mla {

// As s.q says, in place, by all consumers; s.query_unit becomes the heads' units times `scale`.
template <class Together>
__device__ void split_queries(CodeStorage& s, float scale) {
  constexpr int kLanes = 4;
  const int head = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const auto chunk = [&](int panel, int i) -> uint4& {
    return *reinterpret_cast<uint4*>(s.q[panel] + head * 128 + (i ^ (head & 7)) * 16);
  };
  __nv_bfloat162 pair = __float2bfloat162_rn(0.0f);
#pragma unroll
  for (int panel = 0; panel < kPanels; ++panel)
    pair = largest_of(largest_of(pair, chunk(panel, lane)), chunk(panel, lane + kLanes));
  const float unit = unit_of(largest_of_lanes<kLanes>(pair)) * 0x1p7f;
  const float inverse = inverse_of(unit);
  if (lane == 0) s.query_unit[head] = unit * scale;
#pragma unroll
  for (int i = lane; i < 8; i += kLanes) {
    const auto scaled = [&](uint32_t word) {
      return device::pack_bf16(device::low_bf16(word) * inverse, device::high_bf16(word) * inverse);
    };
    uint4& rope = chunk(0, i);
    rope = {scaled(rope.x), scaled(rope.y), scaled(rope.z), scaled(rope.w)};
  }
#pragma unroll 1
  for (int slice = 0; slice < kSlices; ++slice) {
    uint4 own[4];  // 32 dims
#pragma unroll
    for (int i = 0; i < 4; ++i) own[i] = chunk(1 + 2 * slice + lane / 2, lane % 2 * 4 + i);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto* word = reinterpret_cast<const uint32_t*>(own + 2 * i);
      uint32_t high[4], low[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const uint32_t x = word[2 * k], y = word[2 * k + 1];
        const float v[4] = {
            device::low_bf16(x) * inverse,
            device::high_bf16(x) * inverse,
            device::low_bf16(y) * inverse,
            device::high_bf16(y) * inverse};
        high[k] = device::pack_e4m3(v[0], v[1], v[2], v[3]);
        const float2 a = device::unpack_e4m3(static_cast<uint16_t>(high[k]));
        const float2 b = device::unpack_e4m3(static_cast<uint16_t>(high[k] >> 16));
        low[k] = device::pack_e4m3(v[0] - a.x, v[1] - a.y, v[2] - b.x, v[3] - b.y);
      }
      chunk(1 + 2 * slice, 2 * lane + i) = {high[0], high[1], high[2], high[3]};
      chunk(2 + 2 * slice, 2 * lane + i) = {low[0], low[1], low[2], low[3]};
    }
  }
  device::fence_shared_for_async();
  Together::meet();
}

// By the warpgroup whose block it is. Fragments: mla_wide_scores.cuh. Boxes: keys come by TMA.
template <bool Boxes>
struct CodeScores {
  using Storage = CodeStorage;
  using Together = Combine<HeadsByQuads, 64, Storage::kConsumers>;
  static constexpr int kScores = kWideScores, kSteps = kBlock / 16;
  // Under a maximum that is up to 2^kSlack times too small probabilities are as exact.
  static constexpr float kSlack = 8.0f;
  const Arguments& a;
  Storage& s;
  const Cut& cut;
  int part, group;
  Place<Storage::kBlocks> place{};
  uint32_t q_pass = 0;
  int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  int own = __shfl_sync(device::kFullWarp, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  int warp = thread / 32, lane = thread % 32, t = lane % 4;
  int head = 16 * warp + lane / 4;

  float total[2];  // of own blocks and own positions, under the maximum of the last of them

  static __device__ __forceinline__ void meet() { Together::meet(); }
  __device__ __forceinline__ void meet_warpgroup() const {
    device::named_barrier(1 + own, kWarpgroup);
  }
  // The owner's block has its probabilities: one tells, the other waits.
  __device__ __forceinline__ void publish() const {
    device::give_turn(4 + own, Storage::kConsumers);
  }
  __device__ __forceinline__ void await_other() const {
    device::named_barrier(5 - own, Storage::kConsumers);
  }

  __device__ __forceinline__ void await(const Place<Storage::kBlocks>& at, int barrier) const {
    s.full[at.slot * Storage::kGroups + barrier].wait(at.pass);
    if constexpr (!Boxes) device::fence_shared_for_async();
  }

  // Of the own block, whose first `valid` rows hold keys.
  __device__ __forceinline__ void prepare_scales(int valid) const {
    const int row = thread % kBlock, pair = thread / kBlock;
    float4 scales = s.scales[place.slot][row];
    if (row >= valid) scales = float4{};
    const float unit = unit_of(largest_code(scales)), inverse = inverse_of(unit);
    if (pair == 0) s.unit[own][row] = {log2_of(unit), inverse};
    const float of_pair[2] = {pair == 0 ? scales.x : scales.z, pair == 0 ? scales.y : scales.w};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int slice = 2 * pair + i;
      const int of = row % 8 / 2, at = row / 8 * 2 + row % 2;
      s.scale[own][slice][of][at] = of_pair[i];
      reinterpret_cast<__half*>(s.factor[place.slot][slice][of])[at] =
          __float2half_rn(of_pair[i] * inverse);
    }
  }

  // Sums of the products of a slice's codes, on their way.
  __device__ __forceinline__ void multiply_slice(float (&sum)[kScores], int slice) const {
    const uint64_t high = device::operand_descriptor(s.q[1 + 2 * slice]);
    const uint64_t low = device::operand_descriptor(s.q[2 + 2 * slice]);
    const uint64_t keys = device::operand_descriptor(s.panel[place.slot][slice]);
    device::pin(sum);
    device::wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k)
      device::mma_e4m3(sum, device::advanced(low, 2 * k), device::advanced(keys, 2 * k), k > 0);
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k)
      device::mma_e4m3(sum, device::advanced(high, 2 * k), device::advanced(keys, 2 * k), true);
    device::wgmma_commit();
  }
  __device__ __forceinline__ void multiply_rope(float (&score)[kScores]) const {
    const uint64_t query = device::operand_descriptor(s.q[0]);
    const uint64_t keys = device::operand_descriptor(s.panel[place.slot][kSlices]);
    device::pin(score);
    device::wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k)
      device::mma_bf16(score, device::advanced(query, 2 * k), device::advanced(keys, 2 * k), true);
    device::wgmma_commit();
  }

  // Scores of the own block in the queries' units.
  __device__ __forceinline__ void multiply_keys(float (&score)[kScores], int valid) const {
    float sum[kScores];
#pragma unroll
    for (int i = 0; i < kSlices; ++i) {
      const int slice = (2 * (1 - own) + i) % kSlices;
      if (i % 2 == 0) await(place, slice / 2);
      multiply_slice(sum, slice);
      if (i == 0) {
        prepare_scales(valid);
        meet_warpgroup();
      }
      if (i + 1 == kSlices) {
        await(place, Storage::kRopeGroup);
        multiply_rope(score);
      }
      device::wgmma_wait<0>();
      device::pin(sum);
      if (i + 1 == kSlices) device::pin(score);
      const auto* scales = reinterpret_cast<const float4*>(s.scale[own][slice][t]);
#pragma unroll
      for (int k = 0; k < kScores; k += 8) {
        const float4 scale = scales[k / 8];
        const float of_row[4] = {scale.x, scale.y, scale.z, scale.w};
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float factor = of_row[j / 4 * 2 + j % 2];
          score[k + j] = i == 0 ? sum[k + j] * factor : fmaf(sum[k + j], factor, score[k + j]);
        }
      }
    }
  }

  // Scores become probabilities times the rows' units, relative to the running maximum.
  __device__ __forceinline__ void soften(float (&score)[kScores], bool begun) {
    const auto unit_of_rows = [&](int j) {  // of positions 8 j + 2 t, + 1: logarithm, inverse
      return *reinterpret_cast<const float4*>(&s.unit[own][8 * j + 2 * t]);
    };
    const float of_head[2] = {s.query_unit[head], s.query_unit[head + 8]};
#pragma unroll
    for (int i = 0; i < kScores; i += 4) {
      const float4 unit = unit_of_rows(i / 4);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        score[i + 2 * h] = fmaf(score[i + 2 * h], of_head[h], unit.x);
        score[i + 2 * h + 1] = fmaf(score[i + 2 * h + 1], of_head[h], unit.z);
      }
    }
    float base[2], sum[2] = {};
#pragma unroll
    for (int h = 0; h < 2; ++h) base[h] = raise_maximum(largest_score(score, h), h, begun);
#pragma unroll
    for (int i = 0; i < kScores; i += 4) {
      const float4 unit = unit_of_rows(i / 4);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float& first = score[i + 2 * h];
        float& second = score[i + 2 * h + 1];
        first = device::exp2_approx(first - base[h]);
        second = device::exp2_approx(second - base[h]);
        sum[h] = fmaf(first, unit.y, fmaf(second, unit.w, sum[h]));
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) total[h] += sum[h];
  }
  // The running maximum with the own block, what the sums so far count for under it, and the total
  // so far under it.
  __device__ __forceinline__ float raise_maximum(float largest, int h, bool begun) {
    const int at = head + 8 * h;
    const float before = begun ? s.maximum[1 - own][at] : -INFINITY;
    const float raised = largest > before + kSlack ? largest : before;
    const float base = raised == -INFINITY ? 0.0f : raised;
    // A total of zero has no maximum.
    if (total[h] > 0) total[h] *= device::exp2_approx(s.maximum[own][at] - base);
    __syncwarp();
    if (t == 0) {
      s.maximum[own][at] = raised;
      s.fade[place.slot][at] = device::exp2_approx(before - base);
    }
    return base;
  }

  // Codes of rows beyond the keys, which may be NaN.
  __device__ __forceinline__ void clear_rows(int from) const {
    const int chunks = (kBlock - from) * 8;
    for (int i = thread; i < chunks * kSlices; i += kWarpgroup)
      *reinterpret_cast<uint4*>(s.panel[place.slot][i / chunks] + from * 128 + i % chunks * 16) =
          uint4{};
  }

  // The own block's probabilities, for both; Begun: the query has blocks before it in this part.
  __device__ __forceinline__ void make_weights(const Segment& segment, int block, bool begun) {
    const int first = block * kBlock;
    float score[kScores];
    multiply_keys(score, segment.length - first);
    if (block + 2 >= segment.last && lane == 0) s.q_empty.arrive();
    mask_scores(score, a.step, segment, first, t);
    if (begun) await_other();
    soften(score, begun);
    uint32_t weight[kSteps][4];
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i)
      weight[i / 4][i % 4] = pack_f16(score[2 * i], score[2 * i + 1]);
    meet_warpgroup();  // all have read the rotary panel
    store_weights(s.panel[place.slot][kSlices], weight);
    if (segment.length - first < kBlock) clear_rows(segment.length - first);
    device::fence_shared_for_async();
    publish();
    meet_warpgroup();
  }
};

}  // namespace fathom::ops::mla
