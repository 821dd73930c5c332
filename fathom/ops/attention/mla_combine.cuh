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
// Loads of a thread under way, so that their latencies overlap.
constexpr int kFew = 8, kMany = 20;
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

// Up to so many parts of a query leave none of what they add up themselves: those of add_few.
constexpr int kKeptParts = 16;

// Scratch in shared memory, over the ring that nobody needs any more.
template <int Heads>
struct CombineScratch {
  float weight[kMaxParts][Heads];  // the maxima first
  float total[kMaxParts][Heads];
  float share[2 * kWarpgroup];  // of some parts: maxima, totals
  float inverse[Heads];         // of the totals
  float4 sum[2 * kWarpgroup];
  // 64 heads: a part's sums of its own share of the output.
  float4 kept[Heads == 64 ? kLatent * Heads / 8 : 1];
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

  // A part's share of the output of a query in several parts, in quads.
  struct Share {
    int first, parts, own;  // the query's first part, their number, this one among them
    int from, to;
    bool kept;  // its sums stay in this CTA: the ring is free
  };
  __device__ __forceinline__ Share share_of(const Segment& segment, int part) const {
    const int first = cut.part_of(segment.begin);
    const int parts = cut.part_of(segment.end - 1) - first + 1, own = part - first;
    const bool last = segment.begin + segment.last == cut.begin_of(part + 1);
    constexpr int kQuads = kLatent * Heads / 4;
    return {
        first,
        parts,
        own,
        kQuads * own / parts,
        kQuads * (own + 1) / parts,
        Heads == 64 && last && parts <= kKeptParts};
  }

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

  // weight[i][h]: what part i's sums of head h count for, inverse[h]: of what they add up to. Each
  // thread has some parts of a head; each CTA begins with its own: all read the same few lines.
  __device__ void weigh(const Segment& segment, int first, int parts, int own) {
    const int thread = static_cast<int>(threadIdx.x), head = thread % Heads;
    constexpr int kShares = Threads / Heads;
    const int64_t begin = slot(segment, first);
    const float* of_first = partials.statistics + begin * 2 * Heads + head;
    const float* statistics = of_first - begin % 2 * 2 * Heads;  // slots of later parts are even
    float maximum = -INFINITY;
    for (int base = thread / Heads; base < parts; base += kShares * kFew) {
      float loaded[kFew][2];
      int part[kFew];
#pragma unroll
      for (int k = 0; k < kFew; ++k) {
        const int turned = min(base + k * kShares, parts - 1) + own;
        part[k] = turned < parts ? turned : turned - parts;
        const float* from = part[k] == 0 ? of_first : statistics + part[k] * groups * 4 * Heads;
        loaded[k][0] = __ldcg(from);
        loaded[k][1] = __ldcg(from + Heads);
      }
#pragma unroll
      for (int k = 0; k < kFew; ++k) {
        if (base + k * kShares >= parts) break;
        maximum = fmaxf(maximum, loaded[k][0]);
        s.weight[part[k]][head] = loaded[k][0];
        s.total[part[k]][head] = loaded[k][1];
      }
    }
    s.share[thread] = maximum;
    meet();
#pragma unroll
    for (int k = 0; k < kShares; ++k) maximum = fmaxf(maximum, s.share[k * Heads + head]);
    const float base = maximum == -INFINITY ? 0.0f : maximum;
    float total = 0;
#pragma unroll 4
    for (int i = thread / Heads; i < parts; i += kShares) {
      const float weight = device::exp2_approx(s.weight[i][head] - base);
      total = fmaf(s.total[i][head], weight, total);
      s.weight[i][head] = weight;
    }
    meet();
    s.share[thread] = total;
    meet();
    if (thread < Heads) {
      total = 0;
#pragma unroll
      for (int k = 0; k < kShares; ++k) total += s.share[k * Heads + head];
      s.inverse[head] = total > 0 ? 1 / total : 0.0f;
      if (own == 0 && output.lse != nullptr && group * Heads + head < output.heads)
        output.lse[(first_query + segment.query) * output.lse_stride + group * Heads + head] =
            total > 0 ? (base + __log2f(total)) * kLn2 : -INFINITY;
    }
    meet();
  }

  __device__ void store(const Segment& segment, const Quad& quad, float4 v) const {
    const float4 w = quad.weights(s.inverse);
    quad.store(
        output, first_query + segment.query, group, {v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w}
    );
  }

  static __device__ void add(float4& sum, float4 w, float4 v) {
    sum = {
        fmaf(w.x, v.x, sum.x), fmaf(w.y, v.y, sum.y), fmaf(w.z, v.z, sum.z), fmaf(w.w, v.w, sum.w)};
  }

  // Where the sums of a query's parts lie, in quads.
  struct Sums {
    const float4* begin;
    uint32_t inside, stride;  // of the first part, from one part to the next

    __device__ __forceinline__ float4 load(int part, int quad) const {
      const uint32_t at = static_cast<uint32_t>(part) * stride + (part == 0 ? inside : 0);
      return __ldcg(begin + (at + static_cast<uint32_t>(quad)));
    }
  };
  __device__ __forceinline__ Sums sums_from(const Segment& segment, int first) const {
    constexpr uint32_t kSlot = kLatent * Heads / 4;
    const int64_t begin = (static_cast<int64_t>(first) * groups + group) * 2;
    return {
        reinterpret_cast<const float4*>(partials.sums) + begin * kSlot,
        static_cast<uint32_t>(slot(segment, first) - begin) * kSlot,
        static_cast<uint32_t>(groups) * 2 * kSlot};
  }

  // Part `own`'s share where there are at most Parts parts: a thread has several quads under way,
  // the first of them while the weights are worked out.
  template <int Parts>
  __device__ void add_few(const Segment& segment, const Share& share) {
    constexpr int kQuads = 2 * kFew / Parts;
    const auto [first, parts, own, from, to, kept] = share;
    const Sums sums = sums_from(segment, first);
    int base = from + static_cast<int>(threadIdx.x);
    bool weighed = false;
    do {
      float4 v[kQuads][Parts];
#pragma unroll
      for (int k = 0; k < Parts; ++k) {
#pragma unroll
        for (int q = 0; q < kQuads; ++q) {
          const int index = min(base + q * Threads, to - 1);
          v[q][k] = kept && k == own ? s.kept[index - from] : sums.load(min(k, parts - 1), index);
        }
      }
      if (!weighed) weigh(segment, first, parts, own);
      weighed = true;
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        const int index = base + q * Threads;
        if (index >= to) break;
        const Quad quad = Quad::at(index);
        float4 sum{};
#pragma unroll
        for (int k = 0; k < Parts; ++k)
          if (k < parts) add(sum, quad.weights(s.weight[k]), v[q][k]);
        store(segment, quad, sum);
      }
      base += Threads * kQuads;
    } while (base < to);
  }

  // The same for any number. Few quads: several threads share one quad's parts.
  __device__ void add_many(const Segment& segment, const Share& share_of_part) {
    const int thread = static_cast<int>(threadIdx.x);
    const auto [first, parts, own, from, to, kept] = share_of_part;
    const int width = min(to - from, Threads), shares = Threads / width, share = thread / width;
    const Sums sums = sums_from(segment, first);
    bool weighed = false;
    for (int base = from; base < to; base += width) {
      const int index = base + thread % width;
      const Quad quad = Quad::at(index);
      float4 sum{};
      for (int wave = 0; wave < parts; wave += shares * kMany) {
        float4 v[kMany];
#pragma unroll
        for (int k = 0; k < kMany; ++k)
          v[k] = sums.load(min(wave + share + k * shares, parts - 1), min(index, to - 1));
        if (!weighed) weigh(segment, first, parts, own);
        weighed = true;
#pragma unroll
        for (int k = 0; k < kMany; ++k) {
          const int part = wave + share + k * shares;
          if (part >= parts) break;
          add(sum, quad.weights(s.weight[part]), v[k]);
        }
      }
      if (shares > 1) {
        s.sum[thread] = sum;
        meet();
        for (int i = 1; i < shares && share == 0; ++i) {
          const float4 other = s.sum[i * width + thread];
          sum = {sum.x + other.x, sum.y + other.y, sum.z + other.z, sum.w + other.w};
        }
        meet();
      }
      if (share == 0 && index < to) store(segment, quad, sum);
    }
  }

  // For a segment of `part` that is not whole. The upper half of the arrivals counts those that
  // have seen all; the last of them clears the word for the next launch.
  __device__ void run(const Segment& segment, int part) {
    const Share share = share_of(segment, part);
    const int parts = share.parts;
    const auto all = static_cast<uint32_t>(parts);
    wait_for_parts(segment, all);
    uint32_t before = 0;
    if (threadIdx.x == 0) before = atomicAdd(arrivals(segment), 1u << 16);
    if (parts <= 2) {
      add_few<2>(segment, share);
    } else if (parts <= 4) {
      add_few<4>(segment, share);
    } else if (parts <= 8) {
      add_few<8>(segment, share);
    } else if (parts <= kKeptParts) {
      add_few<kKeptParts>(segment, share);
    } else {
      add_many(segment, share);
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
