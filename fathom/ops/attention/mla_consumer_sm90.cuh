// mla_decode, row sm90: the warpgroup that computes, 16 or 32 heads.
#pragma once

#include "fathom/ops/attention/mla_halves_sm90.cuh"
#include "fathom/ops/device/matrix_store.cuh"

namespace fathom::ops::mla {

template <int Heads>
using NarrowCombine = Combine<DimsByHeads<Heads>, Heads, kWarpgroup>;

// Fragments: thread = 32 warp + 4 g + t of its warpgroup holds positions (or dims) 16 warp + g, + 8
// and heads 8 j + 2 t, + 1; its heads are numbered c = 2 j, 2 j + 1.
// Codes: FP8 rows.
template <int Heads, bool Codes>
struct Consumer {
  using Storage = SharedStorage<Heads>;
  static constexpr int kOwn = Heads / 4;  // heads of a thread
  static constexpr int kSlabs = kLatentPanels;
  using Quad = DimsByHeads<Heads>;
  using Together = NarrowCombine<Heads>;
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
            keys + static_cast<uint64_t>(slot * (kPanelBytes / 16) + 2 * k),
            queries + static_cast<uint64_t>(panel * Heads * 8 + 2 * k),
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
    const int chunks = (kBlock - from) * 8;
    for (int i = static_cast<int>(threadIdx.x); i < chunks * kLatentPanels; i += kWarpgroup)
      *reinterpret_cast<uint4*>(
          s.panel[place.slot_of(1 + i / chunks)] + from * 128 + i % chunks * 16
      ) = uint4{};
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
            values + static_cast<uint64_t>(slot * (kPanelBytes / 16) + 128 * k),
            weights + static_cast<uint64_t>(2 * k)
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

  // The totals of all positions of the segment, into s.total[0]; the magnitudes of each warp's
  // sums.
  __device__ void sum_totals() {
#pragma unroll
    for (int c = 0; c < kOwn; ++c) {
      float size = 0;
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) {
        const float* of_pair = o[i] + c / 2 * 4 + c % 2;
        size += fabsf(of_pair[0]) + fabsf(of_pair[2]);
      }
#pragma unroll
      for (int d = 4; d < 32; d *= 2) {
        total[c] += __shfl_xor_sync(device::kFullWarp, total[c], d);
        size += __shfl_xor_sync(device::kFullWarp, size, d);
      }
      if (g == 0) {
        s.total[warp][head_of(c)] = total[c];
        s.size[warp][head_of(c)] = __float2bfloat16_rn(size);
      }
      if (thread / 4 == 0) s.maximum[0][head_of(c)] = maximum[c];
    }
    meet();
    const auto head = static_cast<int>(threadIdx.x);
    if (head < Heads) s.total[0][head] += s.total[1][head] + s.total[2][head] + s.total[3][head];
    meet();
  }

  __device__ void store_whole(const Together& together, const Segment& segment) {
    together.store_lse(segment, s.maximum[0], s.total[0]);
#pragma unroll
    for (int j = 0; j < Heads / 8; ++j) {
      const Quad first = Quad::at(j * kWarpgroup + thread);
      const float2 sum = *reinterpret_cast<const float2*>(&s.total[0][first.head]);
      const float x = sum.x > 0 ? 1 / sum.x : 0.0f, y = sum.y > 0 ? 1 / sum.y : 0.0f;
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) {
        const float* v = o[i] + 4 * j;
        const Quad quad{first.dim + 64 * i, first.head};
        const float values[4] = {v[0] * x, v[1] * y, v[2] * x, v[3] * y};
        quad.store(a.output, a.step.first_query + segment.query, group, values);
      }
    }
    meet();
  }

  __device__ __forceinline__ float unit_of_head(int i) const {
    const auto of = [&](int w) { return __bfloat162float(s.size[w][i]); };
    return unit_of(of(0) + of(1) + of(2) + of(3));
  }

  __device__ void leave_part(const Together& together, const Segment& segment) {
    auto* sums = together.sums_of(segment, part) + thread;
#pragma unroll
    for (int j = 0; j < Heads / 8; ++j) {
      const int first = head_of(2 * j);
      const float2 inverse_unit{
          inverse_of(unit_of_head(first)), inverse_of(unit_of_head(first + 1))};
#pragma unroll
      for (int i = 0; i < kSlabs; ++i)
        __stcg(sums + (i * (Heads / 8) + j) * kWarpgroup, Quad::pack(o[i] + 4 * j, inverse_unit));
    }
    const float unit = unit_of_head(thread % Heads);
    together.leave(segment, part, s.maximum[0], s.total[0], unit);
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
    cut.for_each_segment(part, [&](const Segment& segment) {
      start_segment();
      for (int block = segment.first; block < segment.last; ++block) attend(segment, block);
      sum_totals();
      segment.whole() ? store_whole(together, segment) : leave_part(together, segment);
    });
  }
};

}  // namespace fathom::ops::mla
