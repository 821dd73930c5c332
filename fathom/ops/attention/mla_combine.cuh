// mla_decode, 64 heads: putting together a query whose keys several parts have read. Each part
// leaves its unscaled sums with their maxima and totals, counts itself in, waits for the others and
// adds up its own share of the output: no second launch, no single CTA that reads all. All parts
// run at once (a CTA a multiprocessor), so waiting is safe.
//
// Sums and total leave over a unit 2^e (mla_fragments.cuh), so that e counts as part of the
// maximum. Parts' weights are relative to the largest total, not maximum, whatever their units.
#pragma once

#include "fathom/ops/attention/mla_fragments.cuh"
#include "fathom/ops/attention/mla_split.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"

namespace fathom::ops::mla {

// Loads of a thread under way, so that their latencies overlap.
constexpr int kFew = 8, kMany = 20;

// By the Threads consumers of a CTA.
template <class Fragment, int Heads, int Threads>
struct Combine {
  using Stored = typename Fragment::Stored;
  static constexpr int kFragments = kLatent * Heads / Fragment::kValues;
  const Output& output;
  const Partials& partials;
  const Cut& cut;
  CombineScratch<Heads>& s;
  int groups, group, first_query;

  __device__ __forceinline__ int64_t slot(const Segment& segment, int part) const {
    const int64_t inside = segment.begin > cut.begin_of(part) ? 1 : 0;
    return (static_cast<int64_t>(part) * groups + group) * 2 + inside;
  }

  __device__ __forceinline__ Stored* sums_of(const Segment& segment, int part) const {
    return static_cast<Stored*>(partials.sums) + slot(segment, part) * kFragments;
  }

  __device__ __forceinline__ uint32_t* arrivals(const Segment& segment) const {
    return partials.arrivals + segment.query * groups + group;
  }

  static __device__ __forceinline__ void meet() { device::named_barrier<3>(Threads); }

  // A part's share of the output of a query in several parts, in fragments.
  struct Share {
    int first, parts, own;  // the query's first part, their number, this one among them
    int from, to;
    bool kept;  // its sums stay in this CTA: the ring is free
  };
  __device__ __forceinline__ Share share_of(const Segment& segment, int part) const {
    const int first = cut.part_of(segment.begin);
    const int parts = cut.part_of(segment.end - 1) - first + 1, own = part - first;
    const bool last = segment.begin + segment.last == cut.begin_of(part + 1);
    constexpr int kTogether = Fragment::kNeighbours, kUnits = kFragments / kTogether;
    return {
        first,
        parts,
        own,
        kUnits * own / parts * kTogether,
        kUnits * (own + 1) / parts * kTogether,
        Heads == 64 && last && parts <= kKeptParts};
  }

  // Queries of `part` that see nothing: zeros.
  __device__ void store_nothing(int part, int parts) const {
    const auto own = static_cast<int>(threadIdx.x);
    for (int query = part; query < cut.queries; query += parts) {
      if (cut.plan.begin[query + 1] > cut.plan.begin[query]) continue;
      const int token = first_query + query, head = group * Heads + own;
      for (int i = own; i < kFragments; i += Threads)
        Fragment::at(i).store(output, token, group, {});
      if (own < Heads && head < output.heads && output.lse != nullptr)
        output.lse[token * output.lse_stride + head] = -INFINITY;
    }
  }

  // After this part's sums: their maxima and totals, [Heads] each, in the sums' unit, that of head
  // `threadIdx.x`, and the word that they are there.
  __device__ void leave(
      const Segment& segment, int part, const float* maximum, const float* total, float unit
  ) const {
    const auto head = static_cast<int>(threadIdx.x);
    if (head < Heads) {
      const float2 own{maximum[head] + log2_of(unit), total[head] * inverse_of(unit)};
      __stcg(partials.statistics + slot(segment, part) * Heads + head, own);
    }
    meet();
    if (threadIdx.x == 0) device::release_counter(arrivals(segment));
  }

  // By a query's only part.
  __device__ void store_lse(const Segment& segment, const float* maximum, const float* total)
      const {
    const auto head = static_cast<int>(threadIdx.x);
    if (head < Heads) store_lse(segment, head, maximum[head], total[head]);
  }

  // Until all `parts` have left their sums.
  __device__ void wait_for_parts(const Segment& segment, uint32_t parts) const {
    if (threadIdx.x == 0) {
      while ((device::acquire_counter(arrivals(segment)) & 0xffff) != parts) {
      }
    }
    meet();
  }

  // Some parts' maxima and totals of head `threadIdx.x` % Heads, on their way.
  static constexpr int kShares = Threads / Heads;  // of a head's parts
  struct Statistics {
    float2 of[kFew];
  };
  // Each CTA begins with its own: all read the same few lines.
  static __device__ __forceinline__ int turned(const Share& share, int i) {
    const int part = min(i, share.parts - 1) + share.own;
    return part < share.parts ? part : part - share.parts;
  }
  __device__ __forceinline__ const float2* statistics_of(
      const Segment& segment, const Share& share, int part
  ) const {
    const int64_t begin = slot(segment, share.first);
    const int64_t at = part == 0 ? begin : begin / 2 * 2 + part * 2 * groups;  // even
    return partials.statistics + at * Heads;
  }
  __device__ __forceinline__ Statistics
  load_statistics(const Segment& segment, const Share& share, int base) const {
    Statistics loaded;
#pragma unroll
    for (int k = 0; k < kFew; ++k) {
      const int part = turned(share, base + k * kShares);
      loaded.of[k] =
          __ldcg(statistics_of(segment, share, part) + static_cast<int>(threadIdx.x) % Heads);
    }
    return loaded;
  }
  __device__ __forceinline__ Statistics
  first_statistics(const Segment& segment, const Share& share) const {
    return load_statistics(segment, share, static_cast<int>(threadIdx.x) / Heads);
  }

  // The binary logarithm of what a part's keys count for.
  static __device__ __forceinline__ float size_of(float2 statistics) {
    return statistics.x + __log2f(statistics.y);
  }

  // By the first part, of head `head`.
  __device__ __forceinline__ void store_lse(
      const Segment& segment, int head, float base, float total
  ) const {
    if (output.lse != nullptr && group * Heads + head < output.heads)
      output.lse[(first_query + segment.query) * output.lse_stride + group * Heads + head] =
          total > 0 ? (base + __log2f(total)) * kLn2 : -INFINITY;
  }

  // weight[i][h]: what part i's sums of head h count for, inverse[h]: of what they add up to. Each
  // thread has some parts of a head; `loaded`: its first_statistics.
  __device__ void weigh(const Segment& segment, const Share& share, Statistics loaded) {
    const int thread = static_cast<int>(threadIdx.x), head = thread % Heads, parts = share.parts;
    float largest = -INFINITY;
    for (int begin = thread / Heads;;) {
#pragma unroll
      for (int k = 0; k < kFew; ++k) {
        if (begin + k * kShares >= parts) break;
        const int part = turned(share, begin + k * kShares);
        largest = fmaxf(largest, size_of(loaded.of[k]));
        s.weight[part][head] = loaded.of[k].x;
        s.total[part][head] = loaded.of[k].y;
      }
      begin += kShares * kFew;
      if (begin >= parts) break;
      loaded = load_statistics(segment, share, begin);
    }
    s.largest[thread] = largest;
    meet();
#pragma unroll
    for (int k = 0; k < kShares; ++k) largest = fmaxf(largest, s.largest[k * Heads + head]);
    const float base = largest == -INFINITY ? 0.0f : largest;
    float total = 0;
#pragma unroll 4
    for (int i = thread / Heads; i < parts; i += kShares) {
      const float weight = device::exp2_approx(s.weight[i][head] - base);
      total = fmaf(s.total[i][head], weight, total);
      s.weight[i][head] = weight;
    }
    s.share[thread] = total;
    meet();
    if (thread < Heads) {
      total = 0;
#pragma unroll
      for (int k = 0; k < kShares; ++k) total += s.share[k * Heads + head];
      s.inverse[head] = total > 0 ? 1 / total : 0.0f;
      if (share.own == 0) store_lse(segment, head, base, total);
    }
    meet();
  }

  // The same of up to Parts parts for a thread whose fragments have the same two heads, in
  // registers.
  template <int Parts>
  struct Weights {
    float2 of[2][Parts], inverse;  // of two heads: weights, statistics before

    __device__ __forceinline__ float2 pair(int part) const {
      return {of[0][part].x, of[1][part].x};
    }
  };
  template <int Parts>
  __device__ __forceinline__ Weights<Parts> load_own(
      const Segment& segment, const Share& share, int head
  ) const {
    Weights<Parts> w;
#pragma unroll
    for (int k = 0; k < Parts; ++k) {
      const float2* from = statistics_of(segment, share, min(k, share.parts - 1)) + head;
      w.of[0][k] = __ldcg(from);
      w.of[1][k] = __ldcg(from + Fragment::kOther);
    }
    return w;
  }
  template <int Parts>
  __device__ __forceinline__ void weigh_own(
      const Segment& segment, const Share& share, int head, Weights<Parts>& w
  ) const {
    float inverse[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float largest = -INFINITY, total = 0;
#pragma unroll
      for (int k = 0; k < Parts; ++k) largest = fmaxf(largest, size_of(w.of[h][k]));
      const float base = largest == -INFINITY ? 0.0f : largest;
#pragma unroll
      for (int k = 0; k < Parts; ++k) {
        w.of[h][k].x = device::exp2_approx(w.of[h][k].x - base);
        if (k < share.parts) total = fmaf(w.of[h][k].y, w.of[h][k].x, total);
      }
      inverse[h] = total > 0 ? 1 / total : 0.0f;
      const auto thread = static_cast<int>(threadIdx.x);
      if (share.own == 0 && thread < kWarpgroup && thread % 4 == 0)
        store_lse(segment, head + h * Fragment::kOther, base, total);
    }
    w.inverse = {inverse[0], inverse[1]};
  }

  static __device__ __forceinline__ float2 pair_of(const float* of_heads, int head) {
    return {of_heads[head], of_heads[head + Fragment::kOther]};
  }

  // By all threads of a warp.
  __device__ __forceinline__ void store(
      const Segment& segment,
      const Fragment& fragment,
      const float (&sum)[Fragment::kValues],
      float2 inverse,
      bool inside
  ) const {
    float v[Fragment::kValues];
    fragment.scale(sum, inverse, v);
    fragment.store(output, first_query + segment.query, group, v, inside);
  }

  // Where the sums of a query's parts lie, in fragments.
  struct Sums {
    const Stored* begin;
    uint32_t inside, stride;  // of the first part, from one part to the next

    __device__ __forceinline__ Stored load(int part, int index) const {
      const uint32_t at = static_cast<uint32_t>(part) * stride + (part == 0 ? inside : 0);
      return __ldcg(begin + (at + static_cast<uint32_t>(index)));
    }
  };
  __device__ __forceinline__ Sums sums_from(const Segment& segment, int first) const {
    constexpr uint32_t kSlot = kFragments;
    const int64_t begin = (static_cast<int64_t>(first) * groups + group) * 2;
    return {
        static_cast<const Stored*>(partials.sums) + begin * kSlot,
        static_cast<uint32_t>(slot(segment, first) - begin) * kSlot,
        static_cast<uint32_t>(groups) * 2 * kSlot};
  }

  // 64 heads.
  __device__ __forceinline__ const Stored* kept_sums() const {
    return reinterpret_cast<const Stored*>(s.kept);
  }

  // Part `own`'s share where there are at most Parts parts: a thread has several fragments under
  // way, the first of them while the weights are worked out.
  template <int Parts>
  __device__ void add_few(const Segment& segment, const Share& share) {
    constexpr int kOnce = 2 * kFew / Parts;
    const auto [first, parts, own, from, to, kept] = share;
    const Sums sums = sums_from(segment, first);
    constexpr bool kSameHeads = Heads == 64;
    const int head = Fragment::at(from + static_cast<int>(threadIdx.x)).head;
    auto weights = [&] {
      if constexpr (kSameHeads) {
        return load_own<Parts>(segment, share, head);
      } else {
        return first_statistics(segment, share);
      }
    }();
    for (int base = from; base < to; base += Threads * kOnce) {
      const int begin = base + static_cast<int>(threadIdx.x);
      Stored v[kOnce][Parts];
#pragma unroll
      for (int k = 0; k < Parts; ++k) {
#pragma unroll
        for (int q = 0; q < kOnce; ++q) {
          const int index = min(begin + q * Threads, to - 1);
          v[q][k] =
              kept && k == own ? kept_sums()[index - from] : sums.load(min(k, parts - 1), index);
        }
      }
      if (base == from) {
        if constexpr (kSameHeads) {
          weigh_own<Parts>(segment, share, head, weights);
        } else {
          weigh(segment, share, weights);
        }
      }
#pragma unroll
      for (int q = 0; q < kOnce; ++q) {
        if (base + q * Threads >= to) break;
        const int index = begin + q * Threads;
        const Fragment fragment = Fragment::at(index);
        float sum[Fragment::kValues]{};
#pragma unroll
        for (int k = 0; k < Parts; ++k) {
          if (k >= parts) break;
          if constexpr (kSameHeads) {
            Fragment::add(sum, weights.pair(k), v[q][k]);
          } else {
            Fragment::add(sum, pair_of(s.weight[k], fragment.head), v[q][k]);
          }
        }
        if constexpr (kSameHeads) {
          store(segment, fragment, sum, weights.inverse, index < to);
        } else {
          store(segment, fragment, sum, pair_of(s.inverse, fragment.head), index < to);
        }
      }
    }
  }

  // The same for any number. Few fragments: several threads share one's parts.
  __device__ void add_many(const Segment& segment, const Share& share_of_part) {
    const int thread = static_cast<int>(threadIdx.x);
    const auto [first, parts, own, from, to, kept] = share_of_part;
    const int width = min(to - from, Threads), shares = Threads / width, share = thread / width;
    const Sums sums = sums_from(segment, first);
    const Statistics statistics = first_statistics(segment, share_of_part);
    bool weighed = false;
    for (int base = from; base < to; base += width) {
      const int index = base + thread % width;
      const Fragment fragment = Fragment::at(index);
      float sum[Fragment::kValues]{};
      for (int wave = 0; wave < parts; wave += shares * kMany) {
        Stored v[kMany];
#pragma unroll
        for (int k = 0; k < kMany; ++k)
          v[k] = sums.load(min(wave + share + k * shares, parts - 1), min(index, to - 1));
        if (!weighed) weigh(segment, share_of_part, statistics);
        weighed = true;
#pragma unroll
        for (int k = 0; k < kMany; ++k) {
          const int part = wave + share + k * shares;
          if (part >= parts) break;
          Fragment::add(sum, pair_of(s.weight[part], fragment.head), v[k]);
        }
      }
      if (shares > 1) add_shares(sum, width, shares);
      const float2 inverse = pair_of(s.inverse, fragment.head);
      store(segment, fragment, sum, inverse, share == 0 && index < to);
    }
  }
  // Of `shares` threads each, `width` apart; into the first's.
  __device__ __forceinline__ void add_shares(
      float (&sum)[Fragment::kValues], int width, int shares
  ) {
    const int thread = static_cast<int>(threadIdx.x);
    constexpr int kQuads = Fragment::kValues / 4;
#pragma unroll
    for (int i = 0; i < kQuads; ++i)
      s.sum[i][thread] = {sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3]};
    meet();
    for (int other = 1; other < shares && thread < width; ++other) {
#pragma unroll
      for (int i = 0; i < kQuads; ++i) {
        const float4 v = s.sum[i][other * width + thread];
        sum[4 * i] += v.x;
        sum[4 * i + 1] += v.y;
        sum[4 * i + 2] += v.z;
        sum[4 * i + 3] += v.w;
      }
    }
    meet();
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
