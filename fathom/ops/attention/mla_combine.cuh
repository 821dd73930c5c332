// mla_decode: putting together a query whose keys several parts have read. Each part leaves its
// unscaled sums with their maxima and totals, counts itself in, waits for the others and adds up
// its own share of the output: no second launch, no single CTA that reads all. All parts run at
// once (a CTA a multiprocessor), so waiting is safe.
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/attention/mla_split.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops::mla {

constexpr int kWarpgroup = 128;
constexpr int kInFlight = 8;  // loads of a thread under way, so that their latencies overlap
constexpr int kLatent = 512;
constexpr float kLn2 = 0.69314718f;

// Where results go; strides in elements.
struct Output {
  __nv_bfloat16* out;
  float* lse;  // null: not wanted
  int64_t token_stride, head_stride, lse_stride;
  int heads;
};

// What parts leave for each other; slot = (part x groups + group) x 2, + 1 for a query that begins
// inside the part.
struct Partials {
  float* sums;         // [slots][kLatent x Heads], in the order of the fragments
  float* statistics;   // [slots][2][Heads]: maximum (of scores x log2 e), total
  uint32_t* arrivals;  // [queries][groups], zero before and after
};

// Four values of a thread's fragment of the sums, quad `index` of a query and group: where they
// lie, and which parts' weights count for them.
//
// O^T, dims by heads: dims d and d + 8 of heads h and h + 1.
template <int Heads>
struct DimsByHeads {
  int dim, head;

  static __device__ __forceinline__ DimsByHeads at(int index) {
    const int thread = index % kWarpgroup, block = index / kWarpgroup;
    return {
        block / (Heads / 8) * 64 + thread / 32 * 16 + thread % 32 / 4,
        block % (Heads / 8) * 8 + thread % 4 * 2};
  }
  // By element, of weights of heads.
  __device__ __forceinline__ float4 weights(const float* of_heads) const {
    const float2 w = *reinterpret_cast<const float2*>(of_heads + head);
    return {w.x, w.y, w.x, w.y};
  }
  __device__ __forceinline__ void store(const Output& to, int token, int group, float4 v) const {
    const int first = group * Heads + head;
    __nv_bfloat16* out = to.out + token * to.token_stride + first * to.head_stride + dim;
    if (first < to.heads) {
      out[0] = __float2bfloat16_rn(v.x);
      out[8] = __float2bfloat16_rn(v.z);
    }
    if (first + 1 < to.heads) {
      out[to.head_stride] = __float2bfloat16_rn(v.y);
      out[to.head_stride + 8] = __float2bfloat16_rn(v.w);
    }
  }
};

// O, 64 heads by dims: dims d and d + 1 of heads h and h + 8.
struct HeadsByDims {
  int dim, head;

  static __device__ __forceinline__ HeadsByDims at(int index) {
    const int thread = index % kWarpgroup;
    return {index / kWarpgroup * 8 + thread % 4 * 2, thread / 32 * 16 + thread % 32 / 4};
  }
  __device__ __forceinline__ float4 weights(const float* of_heads) const {
    const float x = of_heads[head], z = of_heads[head + 8];
    return {x, x, z, z};
  }
  __device__ __forceinline__ void store(const Output& to, int token, int group, float4 v) const {
    const int first = group * 64 + head;
    __nv_bfloat16* out = to.out + token * to.token_stride + first * to.head_stride + dim;
    if (first < to.heads) *reinterpret_cast<uint32_t*>(out) = device::pack_bf16(v.x, v.y);
    if (first + 8 < to.heads)
      *reinterpret_cast<uint32_t*>(out + 8 * to.head_stride) = device::pack_bf16(v.z, v.w);
  }
};

// Scratch in shared memory, over the ring that nobody needs any more.
template <int Heads>
struct CombineScratch {
  float weight[kMaxParts][Heads];  // the maxima first
  float total[kMaxParts][Heads];
  float4 sum[2 * kWarpgroup];
};

// By the Threads consumers of a CTA.
template <class Quad, int Heads, int Threads>
struct Combine {
  const Output& output;
  const Partials& partials;
  const Cut& cut;
  CombineScratch<Heads>& s;
  int groups, group, first_query;

  __device__ __forceinline__ int64_t slot(const Segment& segment, int part) const {
    const int64_t inside = segment.begin > cut.begin_of(part) ? 1 : 0;
    return (static_cast<int64_t>(part) * groups + group) * 2 + inside;
  }

  __device__ __forceinline__ float4* sums_of(const Segment& segment, int part) const {
    return reinterpret_cast<float4*>(partials.sums + slot(segment, part) * kLatent * Heads);
  }

  __device__ __forceinline__ uint32_t* arrivals(const Segment& segment) const {
    return partials.arrivals + segment.query * groups + group;
  }

  static __device__ __forceinline__ void meet() { device::named_barrier<3>(Threads); }

  // Queries of `part` that see nothing: zeros.
  __device__ void store_nothing(int part, int parts) const {
    const auto own = static_cast<int>(threadIdx.x);
    for (int query = part; query < cut.queries; query += parts) {
      if (cut.plan.length[query] > 0) continue;
      const int token = first_query + query, head = group * Heads + own;
      for (int i = own; i < Heads * kLatent / 4; i += Threads)
        Quad::at(i).store(output, token, group, float4{});
      if (own < Heads && head < output.heads && output.lse != nullptr)
        output.lse[token * output.lse_stride + head] = -INFINITY;
    }
  }

  // After this part's sums: their maxima and totals, [Heads] each, and the word that they are
  // there.
  __device__ void leave(const Segment& segment, int part, const float* maximum, const float* total)
      const {
    const auto head = static_cast<int>(threadIdx.x);
    if (head < Heads) {
      float* statistics = partials.statistics + slot(segment, part) * 2 * Heads;
      __stcg(statistics + head, maximum[head]);
      __stcg(statistics + Heads + head, total[head]);
    }
    meet();
    if (threadIdx.x == 0) device::release_counter(arrivals(segment));
  }

  // By a query's only part.
  __device__ void store_lse(const Segment& segment, const float* maximum, const float* total)
      const {
    const auto head = static_cast<int>(threadIdx.x);
    if (head >= Heads || group * Heads + head >= output.heads || output.lse == nullptr) return;
    output.lse[(first_query + segment.query) * output.lse_stride + group * Heads + head] =
        total[head] > 0 ? (maximum[head] + __log2f(total[head])) * kLn2 : -INFINITY;
  }

  // Until all `parts` have left their sums.
  __device__ void wait_for_parts(const Segment& segment, uint32_t parts) const {
    if (threadIdx.x == 0) {
      while ((device::acquire_counter(arrivals(segment)) & 0xffff) != parts) {
      }
    }
    meet();
  }

  // weight[i][h]: what part i's sums of head h count for in the output.
  __device__ void weigh(const Segment& segment, int first, int parts, bool writes_lse) {
    const int thread = static_cast<int>(threadIdx.x);
    constexpr int kStep = Threads / Heads;
    for (int base = thread / Heads; base < parts; base += kStep * kInFlight) {
      float loaded[kInFlight][2];
#pragma unroll
      for (int k = 0; k < kInFlight; ++k) {
        const int part = min(base + k * kStep, parts - 1);
        const float* from =
            partials.statistics + slot(segment, first + part) * 2 * Heads + thread % Heads;
        loaded[k][0] = __ldcg(from);
        loaded[k][1] = __ldcg(from + Heads);
      }
#pragma unroll
      for (int k = 0; k < kInFlight; ++k) {
        const int part = base + k * kStep;
        if (part >= parts) break;
        s.weight[part][thread % Heads] = loaded[k][0];
        s.total[part][thread % Heads] = loaded[k][1];
      }
    }
    meet();
    constexpr int kShares = Threads / Heads;
    const int head = thread / kShares, share = thread % kShares;
    float maximum = -INFINITY;
    for (int i = share; i < parts; i += kShares) maximum = fmaxf(maximum, s.weight[i][head]);
    maximum = device::warp_max<kShares>(maximum);
    const float base = maximum == -INFINITY ? 0.0f : maximum;
    float total = 0;
    for (int i = share; i < parts; i += kShares)
      total += s.total[i][head] * device::exp2_approx(s.weight[i][head] - base);
    total = device::warp_sum<kShares>(total);
    const float inverse = total > 0 ? 1 / total : 0.0f;
    for (int i = share; i < parts; i += kShares)
      s.weight[i][head] = device::exp2_approx(s.weight[i][head] - base) * inverse;
    if (writes_lse && share == 0 && output.lse != nullptr && group * Heads + head < output.heads)
      output.lse[(first_query + segment.query) * output.lse_stride + group * Heads + head] =
          total > 0 ? (base + __log2f(total)) * kLn2 : -INFINITY;
    meet();
  }

  static __device__ void add(float4& sum, float4 w, float4 v) {
    sum = {
        fmaf(w.x, v.x, sum.x), fmaf(w.y, v.y, sum.y), fmaf(w.z, v.z, sum.z), fmaf(w.w, v.w, sum.w)};
  }

  // Quads [from, to) of the output where there are at most Parts parts: a thread has several quads
  // under way.
  template <int Parts>
  __device__ void add_few(const Segment& segment, int first, int parts, int from, int to) {
    constexpr int kQuads = 2 * kInFlight / Parts;
    const int thread = static_cast<int>(threadIdx.x);
    for (int base = from + thread; base < to; base += Threads * kQuads) {
      float4 v[kQuads][Parts];
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
#pragma unroll
        for (int k = 0; k < Parts; ++k) {
          const float4* sums = sums_of(segment, first + min(k, parts - 1));
          v[q][k] = __ldcg(sums + min(base + q * Threads, to - 1));
        }
      }
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        const int index = base + q * Threads;
        if (index >= to) break;
        const Quad quad = Quad::at(index);
        float4 sum{};
#pragma unroll
        for (int k = 0; k < Parts; ++k)
          if (k < parts) add(sum, quad.weights(s.weight[k]), v[q][k]);
        quad.store(output, first_query + segment.query, group, sum);
      }
    }
  }

  // The same for any number. Few quads: several threads share one quad's parts.
  __device__ void add_up(const Segment& segment, int first, int parts, int from, int to) {
    const int thread = static_cast<int>(threadIdx.x);
    int width = Threads;
    while (width > 32 && width / 2 >= to - from) width /= 2;
    const int share = thread / width, shares = Threads / width;
    for (int base = from; base < to; base += width) {
      const int index = base + thread % width;
      const Quad quad = Quad::at(index);
      float4 sum{};
      if (index < to) {
        for (int i = share; i < parts; i += shares * kInFlight) {
          float4 v[kInFlight];
#pragma unroll
          for (int k = 0; k < kInFlight; ++k) {
            v[k] = __ldcg(sums_of(segment, first + min(i + k * shares, parts - 1)) + index);
          }
#pragma unroll
          for (int k = 0; k < kInFlight; ++k) {
            if (i + k * shares >= parts) break;
            add(sum, quad.weights(s.weight[i + k * shares]), v[k]);
          }
        }
      }
      if (shares > 1) {
        s.sum[thread] = sum;
        meet();
        for (int i = 1; i < shares && share == 0; ++i) {
          const float4 v = s.sum[i * width + thread];
          sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
        }
        meet();
      }
      if (share == 0 && index < to) quad.store(output, first_query + segment.query, group, sum);
    }
  }

  // For a segment of `part` that is not whole. The upper half of the arrivals counts those that
  // have seen all; the last of them clears the word for the next launch.
  __device__ void run(const Segment& segment, int part) {
    const int first = cut.part_of(segment.begin);
    const int parts = cut.part_of(segment.end - 1) - first + 1;
    const int own = part - first;
    const auto all = static_cast<uint32_t>(parts);
    wait_for_parts(segment, all);
    uint32_t before = 0;
    if (threadIdx.x == 0) before = atomicAdd(arrivals(segment), 1u << 16);
    weigh(segment, first, parts, own == 0);
    constexpr int kQuads = kLatent * Heads / 4;
    const int from = kQuads * own / parts, to = kQuads * (own + 1) / parts;
    if (parts <= 2) {
      add_few<2>(segment, first, parts, from, to);
    } else if (parts <= 4) {
      add_few<4>(segment, first, parts, from, to);
    } else if (parts <= 8) {
      add_few<8>(segment, first, parts, from, to);
    } else if (parts <= 16) {
      add_few<16>(segment, first, parts, from, to);
    } else {
      add_up(segment, first, parts, from, to);
    }
    if (threadIdx.x == 0 && before == ((all - 1) << 16 | all)) *arrivals(segment) = 0;
    meet();  // the scratch is free
  }

  // Of this part, one of `parts`, when all its segments have been read: queries that see nothing,
  // and those that other parts have read too.
  __device__ void end(int part, int parts) {
    store_nothing(part, parts);
    cut.for_each_segment(part, [&](const Segment& segment) {
      if (!segment.whole()) run(segment, part);
    });
  }
};

}  // namespace fathom::ops::mla
