// The full sampling law without a sort of the vocabulary: a cluster of CTAs holds one row's
// probabilities in shared memory. A coarse histogram over quarter octaves bounds what top_k and
// top_p keep; up to 1024 such candidates are ranked by one CTA. More of them: the least probability
// that is kept is found by its bits, 11 + 11 + 10 of them, each digit from a histogram of counts
// and masses. Masses are integers, 2^-40 of the likeliest token's: sums do not depend on their
// order.
#pragma once

#include <cstdint>

#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/sample/sample_device.cuh"

namespace fathom::ops::sampling {

constexpr int kCtas = 8;  // of a cluster: of a row
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2048;
constexpr int kSlice = kBins / kCtas;  // bins that one CTA adds up for all
constexpr int kCoarse = 512;           // quarter octaves: probabilities are at most 1
constexpr int kCoarseSlice = kCoarse / kCtas;
constexpr int kCandidates = 2 * kThreads;

__device__ __forceinline__ uint64_t mass_of(float p) {
  return __float2ull_rn(p * 0x1p40f);
}

struct Tally {
  uint64_t mass = 0;
  uint32_t count = 0;
  __device__ __forceinline__ void add(Tally other) {
    mass += other.mass;
    count += other.count;
  }
};

// What is kept: probabilities whose bits exceed `bits`, and of those equal to it the first `ties`
// in the order of their ids.
struct Threshold {
  uint32_t bits = 0;
  uint32_t ties = 0xffffffffu;
};

struct Candidates {
  uint32_t bits[kCandidates];  // of their probabilities, in the order of their ids
  int32_t id[kCandidates];
  uint64_t ranked[kCandidates];  // masses, likeliest first
};

// So few that a warp draws: bits of probabilities with ids, and by rank with the place in
// `ordered`, which goes by ids.
constexpr int kFew = kThreads / 4;

struct FewCandidates {
  uint2 found[kFew], ranked[kFew], ordered[kFew];
};

struct SharedStorage {
  union {
    uint32_t mass[3][kBins];  // in pieces of 16 bits, which fewer than 2^16 tokens add up
    Candidates candidates;    // of all CTAs, in the first one's memory
    FewCandidates few;
  };
  union {
    uint32_t count[kBins];
    uint32_t coarse[3][kCoarse];  // counts, low and high halves of masses in units of 2^-34
  };
  Tally bin[kSlice];  // of the bins that this CTA adds up
  Tally slice;        // of all of them
  Tally warp[kWarps];
  Best best, adjusted;
  Tally total;     // of this CTA
  uint32_t digit;  // what find() found
  Tally above, at;
  Best scratch[kWarps];
};

// All threads of the cluster call every method alike.
struct Row {
  SharedStorage& s;
  float* p;  // this CTA's tokens [begin, end), padded
  int begin, end;
  uint32_t rank;

  __device__ __forceinline__ float& at(int i) const { return p[i + i / 32]; }
  __device__ __forceinline__ int size() const { return end - begin; }

  template <class F>
  __device__ __forceinline__ void each(F f) const {
    for (int i = static_cast<int>(threadIdx.x); i < size(); i += kThreads) f(i);
  }

  // The best of all CTAs, where each left its own.
  __device__ Best best_of_cluster(Best mine, Best& place) {
    mine = best_of_warp(mine);
    __syncthreads();
    if (threadIdx.x % 32 == 0) s.scratch[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < kWarps; ++w) mine.take(s.scratch[w]);
      place = mine;
    }
    device::cluster_barrier();
    Best best;
    for (uint32_t r = 0; r < kCtas; ++r) best.take(*device::peer_object(&place, r));
    return best;
  }

  // The tallies of the threads before this one, over the cluster, and the sum of all.
  __device__ Tally scan(Tally own, Tally& all) {
    Tally before = own;
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      Tally other;
      other.mass = __shfl_up_sync(device::kFullWarp, before.mass, d);
      other.count = __shfl_up_sync(device::kFullWarp, before.count, d);
      if (lane >= d) before.add(other);
    }
    __syncthreads();
    if (lane == 31) s.warp[warp] = before;
    __syncthreads();
    Tally of_warps, of_cta;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) of_warps.add(s.warp[w]);
      of_cta.add(s.warp[w]);
    }
    device::cluster_barrier();  // nobody reads the total of an earlier scan any more
    if (threadIdx.x == 0) s.total = of_cta;
    device::cluster_barrier();
    all = {};
    Tally of_ctas;
    for (uint32_t r = 0; r < kCtas; ++r) {
      const Tally other = *device::peer_object(&s.total, r);
      if (r < rank) of_ctas.add(other);
      all.add(other);
    }
    before.mass -= own.mass;
    before.count -= own.count;
    before.add(of_warps);
    before.add(of_ctas);
    return before;
  }

  // Histogram of the digit `shift` of all probabilities of the prefix that are at least `least`.
  __device__ void fill(uint32_t prefix, int shift, int width, uint32_t least) {
    for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kThreads)
      s.mass[0][b] = s.mass[1][b] = s.mass[2][b] = s.count[b] = 0;
    __syncthreads();
    each([&](int i) {
      const float v = at(i);
      const uint32_t bits = __float_as_uint(v);
      if (bits < least || static_cast<uint64_t>(bits) >> (shift + width) != prefix) return;
      const uint32_t digit = bits >> shift & ((1u << width) - 1);
      atomicAdd(&s.count[digit], 1u);
      const uint64_t mass = mass_of(v);
      atomicAdd(&s.mass[0][digit], static_cast<uint32_t>(mass & 0xffff));
      atomicAdd(&s.mass[1][digit], static_cast<uint32_t>(mass >> 16 & 0xffff));
      atomicAdd(&s.mass[2][digit], static_cast<uint32_t>(mass >> 32));
    });
    device::cluster_barrier();
    if (threadIdx.x < kSlice) {
      Tally sum;
      const int b = static_cast<int>(rank) * kSlice + static_cast<int>(threadIdx.x);
      for (uint32_t r = 0; r < kCtas; ++r) {
#pragma unroll
        for (int i = 0; i < 3; ++i)
          sum.mass += uint64_t{*device::peer_object(&s.mass[i][b], r)} << 16 * i;
        sum.count += *device::peer_object(&s.count[b], r);
      }
      s.bin[threadIdx.x] = sum;
    }
    add_slice<kSlice>();
  }

  // The sum of this CTA's bins, for all CTAs to see.
  template <int Bins>
  __device__ void add_slice() {
    __syncthreads();
    if (threadIdx.x < 32) {
      Tally sum;
      for (int b = static_cast<int>(threadIdx.x); b < Bins; b += 32) sum.add(s.bin[b]);
#pragma unroll
      for (int d = 16; d > 0; d /= 2) {
        sum.mass += __shfl_xor_sync(device::kFullWarp, sum.mass, d);
        sum.count += __shfl_xor_sync(device::kFullWarp, sum.count, d);
      }
      if (threadIdx.x == 0) s.slice = sum;
    }
    device::cluster_barrier();
  }

  // Histogram of quarter octaves, from digit `least` on; masses in units of 2^-34, each rounded
  // down.
  __device__ void fill_coarse(bool masses, uint32_t least) {
    for (int b = static_cast<int>(threadIdx.x); b < 3 * kCoarse; b += kThreads)
      s.coarse[b / kCoarse][b % kCoarse] = 0;
    __syncthreads();
    each([&](int i) {
      const float v = at(i);
      const uint32_t digit = __float_as_uint(v) >> 21;
      if (digit < least) return;
      atomicAdd(&s.coarse[0][digit], 1u);
      if (!masses) return;
      const auto mass = static_cast<uint64_t>(v * 0x1p34f);
      atomicAdd(&s.coarse[1][digit], static_cast<uint32_t>(mass & 0x1ffff));
      atomicAdd(&s.coarse[2][digit], static_cast<uint32_t>(mass >> 17));
    });
    device::cluster_barrier();
    if (threadIdx.x < kCoarseSlice) {
      Tally sum;
      const int b = static_cast<int>(rank) * kCoarseSlice + static_cast<int>(threadIdx.x);
      for (uint32_t r = 0; r < kCtas; ++r) {
        sum.count += *device::peer_object(&s.coarse[0][b], r);
        sum.mass += *device::peer_object(&s.coarse[1][b], r);
        sum.mass += static_cast<uint64_t>(*device::peer_object(&s.coarse[2][b], r)) << 17;
      }
      s.bin[threadIdx.x] = sum;
    }
    add_slice<kCoarseSlice>();
  }

  // The sums of this and all higher lanes.
  static __device__ __forceinline__ Tally suffix(Tally t) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      Tally other;
      other.mass = __shfl_down_sync(device::kFullWarp, t.mass, d);
      other.count = __shfl_down_sync(device::kFullWarp, t.count, d);
      if (lane + d < 32) t.add(other);
    }
    return t;
  }
  static __device__ __forceinline__ Tally from_lane(Tally t, int lane) {
    t.mass = __shfl_sync(device::kFullWarp, t.mass, lane);
    t.count = __shfl_sync(device::kFullWarp, t.count, lane);
    return t;
  }

  // The highest lane at which what lies above and the suffix reach the goal; lane 0 when none does.
  // `above` grows by the lanes above it.
  template <class Reached>
  static __device__ int highest(Reached reached, Tally own, Tally& above) {
    Tally with = suffix(own);
    with.add(above);
    const uint32_t lanes = __ballot_sync(device::kFullWarp, reached(with));
    const int lane = lanes == 0 ? 0 : 31 - __clz(static_cast<int>(lanes));
    with.mass -= own.mass;
    with.count -= own.count;
    above = from_lane(with, lane);
    return lane;
  }

  // The highest digit at which what lies above it and it reach the goal; `above` grows by what lies
  // above it. By one warp: a lane for each CTA's bins, then the same number of bins a lane.
  template <int Bins, class Reached>
  __device__ uint32_t find(Reached reached, Tally& above, Tally& in_digit) {
    if (threadIdx.x < 32) {
      constexpr int kOwn = Bins / 32;
      const int lane = static_cast<int>(threadIdx.x);
      Tally own;
      if (lane < kCtas) own = *device::peer_object(&s.slice, static_cast<uint32_t>(lane));
      Tally before = above;
      const int slice = highest(reached, own, before);
      Tally bin[kOwn];
      own = {};
#pragma unroll
      for (int b = 0; b < kOwn; ++b) {
        bin[b] = *device::peer_object(&s.bin[lane * kOwn + b], static_cast<uint32_t>(slice));
        own.add(bin[b]);
      }
      if (lane == highest(reached, own, before)) {
        bool found = false;
#pragma unroll
        for (int b = kOwn - 1; b >= 0; --b) {
          if (found) continue;
          Tally with = before;
          with.add(bin[b]);
          found = b == 0 || reached(with);
          if (found) {
            s.digit = static_cast<uint32_t>(slice * Bins + lane * kOwn + b);
            s.above = before;
            s.at = bin[b];
          }
          before = with;
        }
      }
    }
    device::cluster_barrier();  // also: the histograms are free
    above = s.above;
    in_digit = s.at;
    const uint32_t digit = s.digit;
    __syncthreads();
    return digit;
  }

  // The least probability needed to reach the goal from the likeliest down, among those of at least
  // `least`; `above`: the tally of all above it; `in_ties`: of all equal to it.
  template <class Reached>
  __device__ uint32_t search(Reached reached, uint32_t least, Tally& above, Tally& in_ties) {
    above = {};
    uint32_t prefix = 0;
    constexpr int kShift[3] = {21, 10, 0}, kWidth[3] = {11, 11, 10};
#pragma unroll 1
    for (int level = 0; level < 3; ++level) {
      fill(prefix, kShift[level], kWidth[level], least);
      prefix = prefix << kWidth[level] | find<kSlice>(reached, above, in_ties);
    }
    return prefix;
  }
};

}  // namespace fathom::ops::sampling
