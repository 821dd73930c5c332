// The candidates of a row, when few: ranked, cut and drawn from by one CTA.
#pragma once

#include "fathom/ops/sample/sample_threshold.cuh"

namespace fathom::ops::sampling {

// The mass at which the draw stops: floor(sum * random / 2^24).
__device__ __forceinline__ uint64_t target_of(uint64_t sum, uint64_t random) {
  return __umul64hi(sum, random << 40);
}

// Every token of at least the coarse digit, in the order of ids, to the first CTA; and the mass of
// all tokens.
__device__ inline uint64_t collect(Row& slice, uint32_t digit) {
  const int chunk = (slice.size() + kThreads - 1) / kThreads;
  const int from = min(static_cast<int>(threadIdx.x) * chunk, slice.size());
  const int to = min(from + chunk, slice.size());
  Tally own, all;
  for (int i = from; i < to; ++i) {
    const float p = slice.at(i);
    own.mass += mass_of(p);
    own.count += __float_as_uint(p) >> 21 >= digit ? 1 : 0;
  }
  uint32_t place = slice.scan(own, all).count;
  auto* list = const_cast<Candidates*>(device::peer_object(&slice.s.candidates, 0));
  for (int i = from; i < to; ++i) {
    const uint32_t bits = __float_as_uint(slice.at(i));
    if (bits >> 21 < digit) continue;
    list->bits[place] = bits;
    list->id[place++] = slice.begin + i;
  }
  device::cluster_barrier();
  return all.mass;
}

// The masses of the threads before this one, in its CTA alone, and the sum of all.
__device__ inline uint64_t scan_block(uint64_t own, Tally* scratch, uint64_t& all) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  uint64_t with = own;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const uint64_t other = __shfl_up_sync(device::kFullWarp, with, d);
    if (lane >= d) with += other;
  }
  __syncthreads();
  if (lane == 31) scratch[warp].mass = with;
  __syncthreads();
  uint64_t before = with - own;
  all = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += scratch[w].mass;
    all += scratch[w].mass;
  }
  return before;
}

struct Cuts {
  uint32_t top_k;  // 0: off
  float top_p, min_p;
};

// A candidate as it is ranked: likelier ones first, then lower ids.
__device__ __forceinline__ uint64_t key_of(const Candidates& c, int i) {
  return uint64_t{c.bits[i]} << 32 | (0xffffffffu - static_cast<uint32_t>(i));
}

// c.ranked: every candidate counts those before it.
__device__ inline void rank_few(Candidates& c, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const uint32_t own = c.bits[i];
    int rank = 0;
    for (int j = 0; j < count; ++j) {
      const uint32_t other = c.bits[j];
      rank += other > own || (other == own && j < i) ? 1 : 0;
    }
    c.ranked[rank] = key_of(c, i);
  }
}

// The same by a bitonic sort: thread t has a pair of the places at each step; up to 32 places apart
// they are a warp's own.
__device__ inline void rank_many(Candidates& c, int count) {
  int n = 64;
  while (n < count) n *= 2;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < n; i += kThreads) c.ranked[i] = i < count ? key_of(c, i) : 0;
  __syncthreads();
  for (int size = 2; size <= n; size *= 2) {
    for (int apart = size / 2; apart > 0; apart /= 2) {
      const int i = 2 * thread - (thread & (apart - 1)), j = i + apart;
      if (i < n) {
        const uint64_t a = c.ranked[i], b = c.ranked[j];
        if (((i & size) == 0) == (a < b)) {
          c.ranked[i] = b;
          c.ranked[j] = a;
        }
      }
      apart > 32 || (apart == 1 && size >= 64) ? __syncthreads() : __syncwarp();
    }
  }
}

// By the first CTA: the candidates by rank, what the cuts leave of them, and the draw; true in the
// one thread that holds the token. Thread t has candidates and ranks 2t and 2t + 1.
__device__ inline bool draw_candidates(
    SharedStorage& s, int count, uint64_t mass, const Cuts& cuts, uint64_t random, int& token
) {
  constexpr int kFew = 128;
  Candidates& c = s.candidates;
  const int first = 2 * static_cast<int>(threadIdx.x);
  count <= kFew ? rank_few(c, count) : rank_many(c, count);
  __syncthreads();
  const auto bits_at = [&](int r) { return static_cast<uint32_t>(c.ranked[r] >> 32); };
  const int most = cuts.top_k > 0 ? min(static_cast<int>(cuts.top_k), count) : count;
  const auto ranked = [&](int r) {
    return r < most ? mass_of(__uint_as_float(bits_at(r))) : uint64_t{0};
  };
  uint64_t sum = 0;
  const uint64_t before = scan_block(ranked(first) + ranked(first + 1), s.warp, sum);
  if (cuts.top_k == 0) sum = mass;
  const auto goal =
      static_cast<uint64_t>(ceil(static_cast<double>(cuts.top_p) * static_cast<double>(sum)));
  const bool all = cuts.top_p >= 1;
  int kept = __syncthreads_count(first < most && (all || before < goal));
  kept += __syncthreads_count(first + 1 < most && (all || before + ranked(first) < goal));
  kept = max(kept, 1);
  const uint32_t least = __float_as_uint(fmaxf(cuts.min_p, 0.0f));
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const int rank = first + k;
    if (rank < count && (rank >= kept || (rank > 0 && bits_at(rank) < least)))
      c.bits[0xffffffffu - static_cast<uint32_t>(c.ranked[rank])] = 0;
  }
  __syncthreads();
  uint64_t own[2];
#pragma unroll
  for (int k = 0; k < 2; ++k)
    own[k] = first + k < count ? mass_of(__uint_as_float(c.bits[first + k])) : 0;
  uint64_t left = 0;
  uint64_t reached = scan_block(own[0] + own[1], s.warp, left);
  const uint64_t target = target_of(left, random);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const bool found = target >= reached && target < reached + own[k];
    reached += own[k];
    if (!found) continue;
    token = c.id[first + k];
    return true;
  }
  return false;
}

// The masses of the lanes before this one, and the sum of all.
__device__ __forceinline__ uint64_t scan_warp(uint64_t own, uint64_t& all) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint64_t with = own;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const uint64_t other = __shfl_up_sync(device::kFullWarp, with, d);
    if (lane >= d) with += other;
  }
  all = __shfl_sync(device::kFullWarp, with, 31);
  return with - own;
}

// As draw_candidates, of ranked candidates beyond a top_k, by one warp: a lane has four of them
// side by side.
__device__ inline bool draw_few(
    FewCandidates& c, int count, const Cuts& cuts, uint64_t random, int& token
) {
  constexpr int kOwn = kFew / 32;
  const int first = kOwn * (static_cast<int>(threadIdx.x) % 32);
  const int most = min(static_cast<int>(cuts.top_k), count);
  const auto sum_of_own = [](const uint64_t(&mass)[kOwn]) {
    uint64_t sum = 0;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) sum += mass[k];
    return sum;
  };
  uint64_t mass[kOwn], sum = 0, left = 0;
#pragma unroll
  for (int k = 0; k < kOwn; ++k)
    mass[k] = first + k < most ? mass_of(__uint_as_float(c.ranked[first + k].x)) : 0;
  uint64_t before = scan_warp(sum_of_own(mass), sum);
  const auto goal =
      static_cast<uint64_t>(ceil(static_cast<double>(cuts.top_p) * static_cast<double>(sum)));
  int kept = 0;
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    kept += first + k < most && (cuts.top_p >= 1 || before < goal) ? 1 : 0;
    before += mass[k];
  }
  kept = max(__reduce_add_sync(device::kFullWarp, kept), 1);
  const uint32_t least = __float_as_uint(fmaxf(cuts.min_p, 0.0f));
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    const int rank = first + k;
    if (rank < count && (rank >= kept || (rank > 0 && c.ranked[rank].x < least)))
      c.ordered[c.ranked[rank].y].x = 0;
  }
  __syncwarp();
#pragma unroll
  for (int k = 0; k < kOwn; ++k)
    mass[k] = first + k < count ? mass_of(__uint_as_float(c.ordered[first + k].x)) : 0;
  uint64_t reached = scan_warp(sum_of_own(mass), left);
  const uint64_t target = target_of(left, random);
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    const bool found = target >= reached && target < reached + mass[k];
    reached += mass[k];
    if (!found) continue;
    token = static_cast<int>(c.ordered[first + k].y);
    return true;
  }
  return false;
}

}  // namespace fathom::ops::sampling
