// mla_decode, 16 and 32 heads: putting together a query whose keys several parts have read. Each
// part sends every part its share of the unscaled sums and what they count for (device/mail.cuh),
// and adds up its own share of the output: no count, no fence, one trip through the L2. All parts
// run at once (a CTA a multiprocessor) and send all they have before they wait.
//
// Sums leave over a unit 2^e, so that e counts as part of the maximum. Parts' weights are relative
// to the largest total (size), not maximum, whatever their units.
#pragma once

#include "fathom/ops/attention/mla_bundles.cuh"
#include "fathom/ops/device/mail.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"

namespace fathom::ops::mla {

// A part's share of the output of a query in several parts: bundles from `from` to `to`.
struct Share {
  int token, parts, from, to;
  int log_wide;       // bundles that the CTA has at once
  int first, others;  // words of the mail: the first part's; part i's is `others` + i strides
};
struct Shares {
  Share of[2];  // a part's first query and its last
  int count;
};

// What the largest of some parts counts for (as a binary logarithm), and all relative to it, of two
// heads.
struct Sizes {
  float2 largest{-INFINITY, -INFINITY}, total{};
};

__device__ __forceinline__ float finite(float maximum) {
  return maximum == -INFINITY ? 0.0f : maximum;
}
// What `own` is to be multiplied by to be relative to `largest`.
__device__ __forceinline__ float2 under(float2 largest, float2 own) {
  return {
      device::exp2_approx(own.x - finite(largest.x)),
      device::exp2_approx(own.y - finite(largest.y))};
}

// By Threads threads of a CTA, of which the first Consumers have the sums.
template <class Bundle, int Consumers, int Threads>
struct Letters {
  static constexpr int kHeads = Bundle::kHeads;
  static constexpr int kBundles = kHeads / 2 * Bundle::kOfPair;
  static constexpr int kWords = kBundles * (Bundle::kWords + Bundle::kStatistic);  // of a slot
  static constexpr int kLogPlaces = Threads == 256 ? 5 : 4, kPlaces = 1 << kLogPlaces;
  static constexpr int kRows = Threads / 32;  // that have some of the parts each, at last
  static constexpr int kAtOnce = 8;           // letters of a thread
  static constexpr int kSums = 2 * Bundle::kWordsOfLane;
  static constexpr uint32_t kOfLane = 1u << kAtOnce;
  static_assert(kAtOnce == Bundle::kLanes && kPlaces * Bundle::kLanes == Threads);
  // In shared memory, over the ring that nobody needs any more.
  struct Scratch {
    float sum[kPlaces][2 * Bundle::kDims + 8];  // of one head, of the other; padded
    float4 of[kPlaces];                         // Sizes
  };
  const Output& output;
  uint32_t* mail;  // [parts][groups][2]: [bundles] sums, [bundles] statistics
  const Cut& cut;
  Scratch& s;
  int groups, group, first_query;

  // The consumers, and all who add up.
  static __device__ __forceinline__ void meet() { device::named_barrier<3>(Consumers); }
  static __device__ __forceinline__ void meet_all() {
    if constexpr (Threads == Consumers) {
      meet();
    } else {
      device::named_barrier<4>(Threads);
    }
  }

  __device__ __forceinline__ uint32_t* slot(const Segment& segment, int part) const {
    const int inside = segment.begin > cut.begin_of(part) ? 1 : 0;
    return mail + ((part * groups + group) * 2 + inside) * kWords;
  }

  // Queries of `part` that see nothing: zeros.
  __device__ void store_nothing(int part, int parts) const {
    const auto own = static_cast<int>(threadIdx.x);
    for (int query = part; query < cut.queries; query += parts) {
      if (cut.plan.begin[query + 1] > cut.plan.begin[query]) continue;
      const int token = first_query + query;
      for (int i = own; i < kHeads * kLatent / 2; i += Threads)
        output.store_pair(token, group * kHeads + i / (kLatent / 2), i % (kLatent / 2) * 2, {});
      if (own < kHeads) output.store_lse(token, group * kHeads + own, -INFINITY);
    }
  }

  // By the consumers: what the sums of each head count for, the maximum in their unit and the
  // logarithm of their total.
  __device__ __forceinline__ void send_statistics(uint32_t* to, const float2* of_heads) const {
#pragma unroll
    for (int n = 0; n < kBundles / Consumers; ++n) {
      const int i = n * Consumers + static_cast<int>(threadIdx.x), head = Bundle{{i}}.head();
      const float2 x = of_heads[head], y = of_heads[head + Bundle::kOther];
      device::send(
          to + kBundles * Bundle::kWords + i * Bundle::kStatistic, float4{x.x, x.y, y.x, y.y}
      );
    }
  }

  // By the consumers, before they have work: the part's shares.
  __device__ __forceinline__ void expect(int part, Shares& to) const {
    int count = 0;
    cut.for_each_segment(part, [&](const Segment& segment) {
      if (segment.whole()) return;
      const Share share = share_of(segment, part);
      if (threadIdx.x == 0) to.of[count] = share;
      ++count;
    });
    if (threadIdx.x == 0) to.count = count;
  }
  __device__ __forceinline__ Share share_of(const Segment& segment, int part) const {
    const int first = cut.part_of(segment.begin);
    const int parts = cut.part_of(segment.end - 1) - first + 1, own = part - first;
    const Divisor by = Divisor::found(parts);
    const int from = by.quotient(kBundles * own), to = by.quotient(kBundles * (own + 1));
    const int slot = (first * groups + group) * 2;
    const int inside = segment.begin > cut.begin_of(first) ? 1 : 0;
    return {
        .token = first_query + segment.query,
        .parts = parts,
        .from = from,
        .to = to,
        .log_wide = to - from > 1 ? min(32 - __clz(to - from - 1), kLogPlaces) : 0,
        .first = (slot + inside) * kWords,
        .others = slot * kWords};
  }

  // A thread's letters of bundle `index`: those of part `first` and of every `step`-th after it.
  // Lane k of the bundle has the statistic of the k-th. Of parts that are not there: nothing.
  struct Batch {
    uint4 sums[kAtOnce], statistic;  // sealed
    uint32_t *from[kAtOnce], *from_statistic;
    uint32_t wanted;  // a bit a letter, then the statistic
  };
  static __device__ __forceinline__ void peek(Batch& b, uint32_t wanted) {
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) device::peek_if(wanted & 1u << k, b.from[k], b.sums[k]);
    device::peek_if(wanted & kOfLane, b.from_statistic, b.statistic);
  }
  __device__ __forceinline__ Batch ask(const Share& share, int index, int first, int step) const {
    const int lane = static_cast<int>(threadIdx.x) % Bundle::kLanes;
    const int stride = groups * 2 * kWords;
    const bool inside = index < share.to;
    const auto begin_of = [&](int part) {
      return part == 0 ? share.first : share.others + part * stride;
    };
    Batch b{};
    const int own = first + lane * step;
    b.from_statistic =
        mail + (begin_of(own) + kBundles * Bundle::kWords + index * Bundle::kStatistic);
    b.wanted = inside && own < share.parts ? kOfLane : 0;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int part = first + k * step;
      if (inside && part < share.parts) b.wanted |= 1u << k;
      b.from[k] = mail + (begin_of(part) + index * Bundle::kWords + lane * Bundle::kWordsOfLane);
    }
    peek(b, b.wanted);
    return b;
  }
  static __device__ __forceinline__ void await(Batch& b) {
    for (uint32_t missing = b.wanted;;) {
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k)
        if (device::arrived(b.sums[k])) missing &= ~(1u << k);
      if (device::arrived(b.statistic)) missing &= ~kOfLane;
      if (missing == 0) break;
      peek(b, missing);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (b.wanted & 1u << k) *reinterpret_cast<uint4*>(b.from[k]) = uint4{};
    if (b.wanted & kOfLane) {
      *reinterpret_cast<uint4*>(b.from_statistic) = uint4{};
    } else {
      const uint32_t nothing = device::sealed(-INFINITY);
      b.statistic = {nothing, nothing, nothing, nothing};
    }
  }

  static __device__ __forceinline__ void fade(float (&sum)[kSums], float2 by) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum[i] *= i % 2 == 0 ? by.x : by.y;
  }
  static __device__ __forceinline__ float over_lanes(float v, int distance) {
    return __shfl_xor_sync(device::kFullWarp, v, distance);
  }

  // Bundle `entry` of the scratch.
  __device__ __forceinline__ void put(const float (&sum)[kSums], int entry) const {
    const int lane = static_cast<int>(threadIdx.x) % Bundle::kLanes;
#pragma unroll
    for (int i = 0; i < kSums; ++i)
      s.sum[entry][i % 2 * Bundle::kDims + Bundle::position(lane, i / 2)] = sum[i];
  }

  // Letters, of which `count` are there in some row, to what the thread has.
  static __device__ __forceinline__ void add(
      float (&sum)[kSums], Sizes& sizes, const Batch& taken, int count
  ) {
    const float4 of = device::opened(taken.statistic);  // maximum and size of both heads
    const float2 before = sizes.largest;
    const float2 largest = sizes.largest = {
        fmaxf(device::warp_max<kAtOnce>(of.y), before.x),
        fmaxf(device::warp_max<kAtOnce>(of.w), before.y)};
    const float2 kept = under(largest, before), weight = under(largest, {of.x, of.z});
    const float2 size = under(largest, {of.y, of.w});
    sizes.total = {fmaf(sizes.total.x, kept.x, size.x), fmaf(sizes.total.y, kept.y, size.y)};
    fade(sum, kept);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (k >= count) break;
      const float x = __shfl_sync(device::kFullWarp, weight.x, k, Bundle::kLanes);
      const float y = __shfl_sync(device::kFullWarp, weight.y, k, Bundle::kLanes);
      const uint4 v = taken.sums[k];
      const uint32_t word[Bundle::kWordsOfLane] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < Bundle::kWordsOfLane; ++i) {
        const float2 pair = open_pair(word[i]);
        sum[2 * i] = fmaf(x, pair.x, sum[2 * i]);
        sum[2 * i + 1] = fmaf(y, pair.y, sum[2 * i + 1]);
      }
    }
  }

  // With what the lane `distance` away has of the same bundle and other parts.
  static __device__ __forceinline__ void join(float (&sum)[kSums], Sizes& sizes, int distance) {
    const float2 before = sizes.largest;
    sizes.largest = {
        fmaxf(before.x, over_lanes(before.x, distance)),
        fmaxf(before.y, over_lanes(before.y, distance))};
    const float2 kept = under(sizes.largest, before);
    fade(sum, kept);
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum[i] += over_lanes(sum[i], distance);
    sizes.total.x *= kept.x;
    sizes.total.y *= kept.y;
    sizes.total.x += over_lanes(sizes.total.x, distance);
    sizes.total.y += over_lanes(sizes.total.y, distance);
  }

  // Bundles `base` on of the share, 2^log_wide at once, by rows of threads that have some of the
  // parts each; into the scratch. Returns how many rows that leaves.
  __device__ __forceinline__ int add_rows(const Share& share, int base) const {
    const auto thread = static_cast<int>(threadIdx.x);
    const int lane = thread % Bundle::kLanes, place = thread / Bundle::kLanes;
    const int wide = 1 << share.log_wide;
    const int log_rows = kLogPlaces - share.log_wide, rows = 1 << log_rows;
    const int own = place & (wide - 1), row = place >> share.log_wide;
    float sum[kSums]{};
    Sizes sizes;
    for (int begin = 0; begin < share.parts; begin += kAtOnce << log_rows) {
      Batch batch = ask(share, base + own, begin + row, rows);
      await(batch);
      add(sum, sizes, batch, (share.parts - begin + rows - 1) >> log_rows);
    }
    sizes.total = {
        device::warp_sum<kAtOnce>(sizes.total.x), device::warp_sum<kAtOnce>(sizes.total.y)};
    for (int d = wide * Bundle::kLanes; d < 32; d *= 2) join(sum, sizes, d);
    const int in_warp = 32 / Bundle::kLanes;
    if (place % in_warp < wide) {
      const int entry = wide < in_warp ? thread / 32 * wide + own : place;
      put(sum, entry);
      if (lane == 0) s.of[entry] = {sizes.largest.x, sizes.largest.y, sizes.total.x, sizes.total.y};
    }
    return min(rows, kRows);
  }

  // What `rows` rows have left of a bundle becomes output: by a warp.
  __device__ __forceinline__ void store_rows(const Share& share, int base, int rows) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, of_second = lane / 16;
    const int wide = 1 << share.log_wide;
    for (int i = static_cast<int>(threadIdx.x) / 32; i < wide; i += kRows) {
      if (base + i >= share.to) break;
      const float4 of = s.of[(lane & (rows - 1)) * wide + i];
      const float own = of_second ? of.y : of.x, total = of_second ? of.w : of.z;
      float largest = own;
      for (int d = 1; d < rows; d *= 2) largest = fmaxf(largest, over_lanes(largest, d));
      const float weight = device::exp2_approx(own - finite(largest));
      float all = total * weight;
      for (int d = 1; d < rows; d *= 2) all += over_lanes(all, d);
      float2 sum = *reinterpret_cast<const float2*>(&s.sum[i][2 * lane]);
      if (rows > 1) {
        const float first = __shfl_sync(device::kFullWarp, weight, 0, 8);
        sum = {sum.x * first, sum.y * first};
#pragma unroll
        for (int row = 1; row < kRows; ++row) {
          float2 v{};
          if (row < rows) v = *reinterpret_cast<const float2*>(&s.sum[row * wide + i][2 * lane]);
          const float by = __shfl_sync(device::kFullWarp, weight, row, 8);
          sum = {fmaf(by, v.x, sum.x), fmaf(by, v.y, sum.y)};
        }
      }
      const float inverse = all > 0 ? 1 / all : 0.0f;
      const Bundle bundle{{base + i}};
      const int head = group * kHeads + bundle.head() + of_second * Bundle::kOther;
      output.store_pair(
          share.token, head, bundle.dim(lane % 16 * 2), {sum.x * inverse, sum.y * inverse}
      );
      if (bundle.index % Bundle::kOfPair == 0 && lane % 16 == 0)
        output.store_lse(share.token, head, finite(largest) + __log2f(all));
    }
  }

  // Of this part, one of `parts`, when all its segments have been read: queries that see nothing,
  // and those that other parts have read too.
  __device__ void end(int part, int parts, const Shares& shares) const {
    meet_all();  // all has been sent, and the ring is free
    for (int i = 0; i < shares.count; ++i) {
      const Share share = shares.of[i];
      for (int base = share.from; base < share.to; base += 1 << share.log_wide) {
        const int rows = add_rows(share, base);
        meet_all();
        store_rows(share, base, rows);
        meet_all();
      }
    }
    store_nothing(part, parts);
  }
};

}  // namespace fathom::ops::mla
