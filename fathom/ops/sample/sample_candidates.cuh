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

// By the first CTA: the candidates by rank, what the cuts leave of them, and the draw; true in the
// one thread that holds the token. Thread t has candidates and ranks 2t and 2t + 1.
__device__ inline bool draw_candidates(
    SharedStorage& s, int count, uint64_t mass, const Cuts& cuts, uint64_t random, int& token
) {
  Candidates& c = s.candidates;
  const int first = 2 * static_cast<int>(threadIdx.x);
  int rank[2] = {0, 0};
  for (int j = 0; j < count; ++j) {
    const uint32_t other = c.bits[j];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int i = first + k;
      const uint32_t own = i < count ? c.bits[i] : 0;
      rank[k] += other > own || (other == own && j < i) ? 1 : 0;
    }
  }
  uint64_t own[2] = {0, 0};
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    if (first + k >= count) continue;
    own[k] = mass_of(__uint_as_float(c.bits[first + k]));
    c.ranked[rank[k]] = own[k];
  }
  __syncthreads();
  const int most = cuts.top_k > 0 ? min(static_cast<int>(cuts.top_k), count) : count;
  const auto ranked = [&](int r) { return r < most ? c.ranked[r] : uint64_t{0}; };
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
    const bool stays =
        first + k < count && rank[k] < kept && (rank[k] == 0 || c.bits[first + k] >= least);
    if (!stays) own[k] = 0;
  }
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

}  // namespace fathom::ops::sampling
