// mla_decode, row sm90: the warpgroup that computes, 16 or 32 heads.
#pragma once

#include "fathom/ops/attention/mla_halves_sm90.cuh"
#include "fathom/ops/attention/mla_letters.cuh"
#include "fathom/ops/device/matrix_store.cuh"

namespace fathom::ops::mla {

// Producers of BF16 rows help to add up.
template <int Heads, bool Codes>
using NarrowLetters = Letters<NarrowBundle<Heads>, kWarpgroup, Codes ? kWarpgroup : 2 * kWarpgroup>;

// Fragments: thread = 32 warp + 4 g + t of its warpgroup holds positions (or dims) 16 warp + g, + 8
// and heads 8 j + 2 t, + 1; its heads are numbered c = 2 j, 2 j + 1.
// Codes: FP8 rows.
template <int Heads, bool Codes>
struct Consumer {
  using Storage = SharedStorage<Heads>;
  static constexpr int kOwn = Heads / 4;  // heads of a thread
  static constexpr int kSlabs = kLatentPanels;
  using Together = NarrowLetters<Heads, Codes>;
  const Arguments& a;
  Storage& s;
  const Cut& cut;
  int part, group;
  Place<Storage::kRing> place{};
  uint32_t q_pass = 0;
  int blocks = 0;  // before this one
  int thread = static_cast<int>(threadIdx.x);
  int warp = thread / 32, g = thread % 32 / 4, t = thread % 4;

  float maximum[kOwn], total[kOwn];  // of the segment so far; totals of own positions
  float o[kSlabs][Heads / 2];        // O^T, unscaled

  __device__ __forceinline__ int head_of(int c) const { return c / 2 * 8 + 2 * t + c % 2; }

  static __device__ __forceinline__ void meet() { Together::meet(); }

  __device__ void multiply_keys(float (&score)[Heads / 2]) {
    const uint64_t keys = device::operand_descriptor(s.panel[0]);
    const uint64_t queries = device::operand_descriptor(s.q[0]);
#pragma unroll
    for (int panel = 0; panel < kPanels; ++panel) {
      const int slot = place.slot_of(panel);
      wait_for_panel<Codes>(s.full, place, panel);
      device::wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        multiply<Codes>(
            score,
            device::advanced(keys, static_cast<uint32_t>(slot * (kPanelBytes / 16) + 2 * k)),
            device::advanced(queries, static_cast<uint32_t>(panel * Heads * 8 + 2 * k)),
            panel + k > 0
        );
      }
    }
    device::wgmma_commit();
    device::wgmma_wait<0>();
    device::pin(score);
  }

  // Scores of positions that the query does not see become -inf.
  __device__ void mask(float (&score)[Heads / 2], const Segment& segment, int first) {
    const bool tree = a.step.tree_mask != nullptr;
    const int tree_begin = tree ? segment.length - segment.own : segment.length;
    if (first + kBlock <= min(segment.length, tree_begin)) return;
    const int64_t bits =
        tree ? __ldg(a.step.tree_mask + a.step.first_query + segment.query) : int64_t{0};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = first + 16 * warp + g + 8 * half;
      const int node = position - tree_begin;
      const bool seen =
          position < segment.length && (node < 0 || (bits >> (node < 64 ? node : 63) & 1) != 0);
      if (seen) continue;
#pragma unroll
      for (int j = 0; j < Heads / 8; ++j)
        score[4 * j + 2 * half] = score[4 * j + 2 * half + 1] = -INFINITY;
    }
  }

  // What is left to multiply scores by.
  __device__ __forceinline__ float scale() const {
    return Codes ? 1.0f : a.scale;
  }

  // FP8 rows: scores of products in units; `inverse` of the units of own positions.
  __device__ void scale_units(float (&score)[Heads / 2], float (&inverse)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float unit = s.unit[blocks % Storage::kUnits][16 * warp + g + 8 * half];
      inverse[half] = inverse_of(unit);
#pragma unroll
      for (int c = 0; c < kOwn; ++c) {
        float& of_pair = score[c / 2 * 4 + c % 2 + 2 * half];
        of_pair = fmaf(of_pair, unit * s.query_unit[head_of(c)], log2_of(unit));
      }
    }
  }

  // The new running maxima of own heads, over all four warps' positions.
  __device__ void raise_maximum(const float (&score)[Heads / 2], float (&raised)[kOwn]) {
#pragma unroll
    for (int c = 0; c < kOwn; ++c) {
      const int i = c / 2 * 4 + c % 2;
      float v = fmaxf(score[i], score[i + 2]);
#pragma unroll
      for (int d = 4; d < 32; d *= 2) v = fmaxf(v, __shfl_xor_sync(device::kFullWarp, v, d));
      raised[c] = v;
    }
    if (g == 0) {
#pragma unroll
      for (int c = 0; c < kOwn; c += 2)
        *reinterpret_cast<float2*>(&s.maximum[warp][head_of(c)]) = {raised[c], raised[c + 1]};
    }
    meet();
#pragma unroll
    for (int c = 0; c < kOwn; c += 2) {
      float2 v = *reinterpret_cast<const float2*>(&s.maximum[0][head_of(c)]);
#pragma unroll
      for (int w = 1; w < 4; ++w) {
        const float2 other = *reinterpret_cast<const float2*>(&s.maximum[w][head_of(c)]);
        v = {fmaxf(v.x, other.x), fmaxf(v.y, other.y)};
      }
      raised[c] = fmaxf(maximum[c], v.x * scale());
      raised[c + 1] = fmaxf(maximum[c + 1], v.y * scale());
    }
  }

  // Probabilities, relative to the running maximum, to shared memory as [Heads][64 positions].
  __device__ void weigh(float (&score)[Heads / 2]) {
    float raised[kOwn], inverse[2] = {1.0f, 1.0f};
    if constexpr (Codes) scale_units(score, inverse);
    raise_maximum(score, raised);
#pragma unroll
    for (int c = 0; c < kOwn; ++c) {
      const int i = c / 2 * 4 + c % 2;
      const float base = raised[c] == -INFINITY ? 0.0f : raised[c];
      const float fade = device::exp2_approx(maximum[c] - base);
      maximum[c] = raised[c];
      score[i] = device::exp2_approx(fmaf(score[i], scale(), -base));
      score[i + 2] = device::exp2_approx(fmaf(score[i + 2], scale(), -base));
      total[c] = fmaf(
          total[c],
          fade,
          Codes ? fmaf(score[i], inverse[0], score[i + 2] * inverse[1]) : score[i] + score[i + 2]
      );
      if (thread / 4 == 0) s.fade[head_of(c)] = fade;
    }
    const int lane = thread % 32, block = lane / 8, row = lane % 8;
#pragma unroll
    for (int j = 0; j < Heads / 8; j += 2) {
      const int head = 8 * (j + block / 2) + row;
      const int chunk = 2 * warp + block % 2;
      device::store_blocks_transposed(
          device::shared_address(s.p + head * 128 + (chunk ^ row) * 16),
          pack<Codes>(score[4 * j], score[4 * j + 1]),
          pack<Codes>(score[4 * j + 2], score[4 * j + 3]),
          pack<Codes>(score[4 * j + 4], score[4 * j + 5]),
          pack<Codes>(score[4 * j + 6], score[4 * j + 7])
      );
    }
  }

  // The sums so far under the new maxima; most blocks raise none.
  __device__ void fade_sums() {
    float fade[Heads / 4];
    bool same = true;
#pragma unroll
    for (int c = 0; c < Heads / 4; c += 2) {
      const float2 v = *reinterpret_cast<const float2*>(&s.fade[4 * c + 2 * t]);
      fade[c] = v.x;
      fade[c + 1] = v.y;
      same = same && v.x == 1.0f && v.y == 1.0f;
    }
    if (__all_sync(device::kFullWarp, same)) return;
#pragma unroll
    for (int i = 0; i < kSlabs; ++i) {
#pragma unroll
      for (int r = 0; r < Heads / 2; ++r) o[i][r] *= fade[r / 4 * 2 + r % 2];
    }
  }

  // Rows beyond the keys hold anything, also NaN, which a probability of zero does not silence.
  __device__ void clear_rows(int from) {
    constexpr int kRows = kWarpgroup / 8;  // at once
    for (int row = from + thread / 8; row < kBlock; row += kRows) {
#pragma unroll
      for (int panel = 1; panel < kPanels; ++panel)
        *reinterpret_cast<uint4*>(s.panel[place.slot_of(panel)] + row * 128 + thread % 8 * 16) =
            uint4{};
    }
  }

  // Slabs [kFrom, kFrom + kSlabs / 2).
  template <int kFrom>
  __device__ __forceinline__ void multiply_half() {
    const uint64_t values = device::transposed_descriptor(s.panel[0], kPanelBytes);
    const uint64_t weights = device::operand_descriptor(s.p);
#pragma unroll
    for (int i = kFrom; i < kFrom + kSlabs / 2; ++i) {
      const int slot = place.slot_of(1 + i);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        multiply_transposed<Codes>(
            o[i],
            device::advanced(values, static_cast<uint32_t>(slot * (kPanelBytes / 16) + 128 * k)),
            device::advanced(weights, static_cast<uint32_t>(2 * k))
        );
      }
    }
    device::wgmma_commit();
  }

  __device__ void multiply_values() {
#pragma unroll
    for (int i = 0; i < kSlabs; ++i) device::pin(o[i]);
    device::wgmma_fence();
    multiply_half<0>();
    multiply_half<kSlabs / 2>();
    device::wgmma_wait<1>();
    release(1, kSlabs / 2);
    device::wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < kSlabs; ++i) device::pin(o[i]);
    release(1 + kSlabs / 2, kSlabs / 2);
  }

  // This warp reads `count` panels from `first` no more.
  __device__ __forceinline__ void release(int first, int count) {
    const int lane = thread % 32;
    if (lane < count) s.empty[place.slot_of(first + lane)].arrive();
  }

  __device__ void attend(const Segment& segment, int block) {
    // So that descriptors are worked out once a warp.
    place.slot = __shfl_sync(device::kFullWarp, place.slot, 0);
    place.pass = __shfl_sync(device::kFullWarp, place.pass, 0);
    float score[Heads / 2];
    multiply_keys(score);
    release(0, 1);
    if (block + 1 == segment.last && thread % 32 == 0) s.q_empty.arrive();
    const int first = block * kBlock;
    mask(score, segment, first);
    weigh(score);
    if (segment.length - first < kBlock) clear_rows(segment.length - first);
    device::fence_shared_for_async();
    meet();
    fade_sums();
    multiply_values();
    place.advance(kPanels);
    ++blocks;
  }

  // The totals of all positions of the segment, into s.total[0], and what its sums count for.
  __device__ void sum_totals() {
#pragma unroll
    for (int c = 0; c < kOwn; c += 2) {
      float2 size{};  // magnitudes
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) {
        const float* of_pair = o[i] + c / 2 * 4;
        size.x += fabsf(of_pair[0]) + fabsf(of_pair[2]);
        size.y += fabsf(of_pair[1]) + fabsf(of_pair[3]);
      }
      __nv_bfloat162 sizes = __float22bfloat162_rn(size);
#pragma unroll
      for (int d = 4; d < 32; d *= 2) {
        total[c] += __shfl_xor_sync(device::kFullWarp, total[c], d);
        total[c + 1] += __shfl_xor_sync(device::kFullWarp, total[c + 1], d);
        sizes = __hadd2(sizes, __shfl_xor_sync(device::kFullWarp, sizes, d));
      }
      if (g == 0) {
        *reinterpret_cast<float2*>(&s.total[warp][head_of(c)]) = {total[c], total[c + 1]};
        *reinterpret_cast<__nv_bfloat162*>(&s.size[warp][head_of(c)]) = sizes;
      }
      if (thread / 4 == 0)
        *reinterpret_cast<float2*>(&s.maximum[0][head_of(c)]) = {maximum[c], maximum[c + 1]};
    }
    meet();
    if (thread < Heads) {
      float all = 0, size = 0;
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        all += s.total[w][thread];
        size += __bfloat162float(s.size[w][thread]);
      }
      const float unit = unit_of(size), base = s.maximum[0][thread];
      s.total[0][thread] = all;
      s.inverse_unit[thread] = inverse_of(unit);
      s.statistic[thread] = {base + log2_of(unit), base + __log2f(all)};
    }
    meet();
  }

  __device__ void store_whole(const Segment& segment) {
    const int token = a.step.first_query + segment.query;
    if (thread < Heads) a.output.store_lse(token, group * Heads + thread, s.statistic[thread].y);
#pragma unroll
    for (int c = 0; c < kOwn; ++c) {
      const int own = head_of(c), of_all = group * Heads + own;
      if (of_all >= a.output.heads) continue;
      const float sum = s.total[0][own], inverse = sum > 0 ? 1 / sum : 0.0f;
      __nv_bfloat16* out = a.output.out + token * a.output.token_stride +
                           of_all * a.output.head_stride + 16 * warp + g;
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) {
        const float* of_pair = o[i] + c / 2 * 4 + c % 2;
        out[64 * i] = __float2bfloat16_rn(of_pair[0] * inverse);
        out[64 * i + 8] = __float2bfloat16_rn(of_pair[2] * inverse);
      }
    }
  }

  // The next segment's statistics come behind a barrier.
  __device__ void send_part(const Together& together, const Segment& segment) {
    uint32_t* to = together.slot(segment, part);
    together.send_statistics(to, s.statistic);
#pragma unroll
    for (int j = 0; j < Heads / 8; ++j) {
      const auto [x, y] = *reinterpret_cast<const float2*>(&s.inverse_unit[head_of(2 * j)]);
#pragma unroll
      for (int i = 0; i < kSlabs; i += 2) {
        const float *low = o[i] + 4 * j, *high = o[i + 1] + 4 * j;
        const auto bundle = NarrowBundle<Heads>::of(4 * j + t, i / 2, warp);
        device::send_sealed(
            to + bundle.index * Bundle::kWords + g * Bundle::kWordsOfLane,
            uint4{
                seal_pair(low[0] * x, low[1] * y),
                seal_pair(low[2] * x, low[3] * y),
                seal_pair(high[0] * x, high[1] * y),
                seal_pair(high[2] * x, high[3] * y)}
        );
      }
    }
  }

  __device__ void start_segment() {
    s.q_full.wait(q_pass);
    q_pass ^= 1;
    if constexpr (Codes) halve_queries<Heads, Together>(s, a.scale);
#pragma unroll
    for (int c = 0; c < kOwn; ++c) {
      maximum[c] = -INFINITY;
      total[c] = 0;
    }
#pragma unroll
    for (int i = 0; i < kSlabs; ++i) {
#pragma unroll
      for (int r = 0; r < Heads / 2; ++r) o[i][r] = 0;
    }
  }

  __device__ void run(const Together& together) {
    device::wait_for_predecessor();
    device::launch_successor();
    together.expect(part, s.shares);
    cut.for_each_segment(part, [&](const Segment& segment) {
      start_segment();
      for (int block = segment.first; block < segment.last; ++block) attend(segment, block);
      sum_totals();
      segment.whole() ? store_whole(segment) : send_part(together, segment);
    });
  }
};

}  // namespace fathom::ops::mla
