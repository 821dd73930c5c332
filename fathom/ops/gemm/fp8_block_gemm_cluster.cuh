// Row cluster_sm90 of fp8_block_gemm: how a CTA is cut, what lies in its shared memory, and how the
// CTAs of a cluster add up the sums of a group of outputs.
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/device/cluster.cuh"
#include "fathom/ops/device/divisor.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/fp8_block_gemm_rows.h"
#include "fathom/ops/gemm/weight_tiles.h"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Vec;

constexpr int kMaxResident = 40;  // blocks of K of one CTA, of BF16 tokens
constexpr int kReady = 2;         // named barrier: the mbarriers are initialised

template <class Y>
struct Arguments {
  const uint8_t* w;
  const float* w_scale;
  const float* x_scale;
  const __nv_bfloat16* x;  // to be quantised
  Y* y;
  int64_t x_stride, y_stride;
  int M, N;
  bool ue8m0;
  int x_scale_columns;
  bool wide_rows;  // of y: two outputs at an aligned place
  ClusterPlan plan;
  PlanPlaces places;
};

// How a CTA is cut, by tokens. Whole: it takes a whole SM, for its ring.
template <int Tokens, bool Quantise = false, bool Whole = false>
struct Shape {
  static constexpr bool kWhole = Whole;
  static constexpr int kTokens = Tokens;
  static constexpr bool kQuantises = Quantise;
  static constexpr int kGroups = Tokens > 32 ? 2 : 1;  // of 64 rows
  static constexpr int kTeams = Tokens > 32 ? 1 : 2;   // that take turns along K
  static constexpr int kSlotBlocks = 2;
  // A slot always falls to the same team: even where there are two.
  static constexpr int kHalfStages = Tokens == 8 && !Quantise ? 6 : 4;
  static constexpr int kWholeStages = Tokens == 64 ? 3 : Tokens == 8 ? 10 : 8;
  static constexpr int kStages = Tokens > 32 || Whole ? kWholeStages : kHalfStages;
  static constexpr int kPlacesOfX = Quantise ? kMaxResident : kStages * kSlotBlocks;  // blocks
  // Up to 32 tokens two CTAs share an SM, so that the successor's ring fills beside this one, or
  // there are SMs left for it.
  static constexpr int kResident = Tokens > 32 || Whole ? 1 : 2;
  static constexpr bool kMovesRegisters = Tokens > 32;
  static constexpr int kOutputs = kGroups * 64;
  static constexpr int kMaxUnits = 512;  // whose weight scales a CTA keeps
  static constexpr int kConsumers = kGroups * kTeams * 128;
  // Pairs of sums, of two tokens, that a thread ends up with once the teams have met.
  static constexpr int kPairs = Tokens / kTeams / 4;
  static constexpr int kThreads = kConsumers + (kMovesRegisters ? 128 : 64);
  static constexpr int kWeightWarp = kConsumers / 32, kTokenWarp = kWeightWarp + 1;
};

template <class S>
struct SharedStorage {
  uint8_t w[S::kStages][S::kGroups][S::kSlotBlocks][kTileBytes];
  uint8_t x[S::kPlacesOfX][S::kTokens * kTileRowBytes];
  float x_scale[S::kPlacesOfX * S::kTokens];
  float2 part[S::kPairs][S::kConsumers];  // sums of one group, as threads hold them
  Barrier full[S::kStages], empty[S::kStages];
  Barrier parts_full, parts_empty;  // of the whole cluster
  float w_scale[S::kMaxUnits];      // [groups of this CTA][its blocks]; only as many as there are
};

// A CTA's place in the work, and the end of a group.
template <class S, class Y>
struct ClusterPart {
  static constexpr int kSums = S::kTokens / 2, kPairs = S::kPairs;
  static constexpr int kWarps = S::kConsumers / 32;

  const Arguments<Y>& a;
  SharedStorage<S>& s;
  int rank, cluster;        // of this CTA in its cluster; which cluster
  int first_block, blocks;  // of this CTA
  int groups;               // of this CTA

  __device__ ClusterPart(const Arguments<Y>& arguments, SharedStorage<S>& storage)
      : a(arguments), s(storage) {
    cluster = a.places.divided(static_cast<int>(blockIdx.x));
    rank = static_cast<int>(blockIdx.x) - cluster * a.plan.cluster;
    first_block = a.places.divided(rank * a.plan.blocks);
    blocks = a.places.divided((rank + 1) * a.plan.blocks) - first_block;
    groups = a.places.groups_of(cluster);
  }

  __device__ int group(int i) const { return cluster + i * a.plan.clusters; }
  __device__ static int team() { return S::kTeams == 1 ? 0 : static_cast<int>(threadIdx.x) / 128; }

  // The end of the i-th group: teams and CTAs add their sums up, and the outputs leave, each
  // thread's straight from its registers. The code is short, since it mostly runs once and cold.
  __device__ void finish(const float (&sum)[kSums], int i) {
    const bool shared = a.plan.cluster > 1;
    float2 held[kPairs];
    // Who reads the sums of the group before has done so.
    if (shared) {
      device::wait_shown(s.parts_empty, static_cast<uint32_t>(i % 2 ^ 1));
    } else if (S::kTeams > 1 && i > 0) {
      device::named_barrier<1>(S::kConsumers);
    }
    if constexpr (S::kTeams > 1) {
      meet_team(held, sum);
    } else {
#pragma unroll
      for (int k = 0; k < kPairs; ++k) held[k] = {sum[2 * k], sum[2 * k + 1]};
    }
    if (shared) meet_parts(held, i);
    // Of a shared group's outputs each CTA has those of some warps.
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int begin = a.places.divided(rank * kWarps), end = a.places.divided((rank + 1) * kWarps);
    if (warp >= begin && warp < end) {
      if (shared) add_parts(held);
      store(held, i);
    }
    if (!shared || i + 1 == groups) return;
    device::named_barrier<1>(S::kConsumers);
    if (static_cast<int>(threadIdx.x) < a.plan.cluster) s.parts_empty.let_go_at(threadIdx.x);
  }

  // Each team gives the other the sums of half of the outputs: of eight rows in turn.
  __device__ void meet_team(float2 (&held)[kPairs], const float (&sum)[kSums]) {
    const int thread = static_cast<int>(threadIdx.x);
    const bool first = team() == 0;
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      const float* d = sum + 4 * k;
      s.part[k][thread ^ 128] = first ? float2{d[2], d[3]} : float2{d[0], d[1]};
      held[k] = first ? float2{d[0], d[1]} : float2{d[2], d[3]};
    }
    device::named_barrier<1>(S::kConsumers);
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      const float2 other = s.part[k][thread];
      held[k] = {held[k].x + other.x, held[k].y + other.y};
    }
  }

  // Shows the peers this CTA's sums, and waits for theirs.
  __device__ void meet_parts(const float2 (&held)[kPairs], int i) {
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int k = 0; k < kPairs; ++k) s.part[k][thread] = held[k];
    device::named_barrier<1>(S::kConsumers);
    if (thread < a.plan.cluster)
      device::show_shared_at(s.parts_full, static_cast<uint32_t>(thread));
    device::wait_shown(s.parts_full, static_cast<uint32_t>(i % 2));
  }

  // All CTAs' sums of this thread's outputs, in the order of the parts.
  __device__ void add_parts(float2 (&held)[kPairs]) {
    const float2* mine = &s.part[0][threadIdx.x];
#pragma unroll
    for (int k = 0; k < kPairs; ++k) held[k] = {};
#pragma unroll 1
    for (int r = 0; r < a.plan.cluster; ++r) {
      const float2* part = device::peer_object(mine, static_cast<uint32_t>(r));
      float2 next[kPairs];
#pragma unroll
      for (int k = 0; k < kPairs; ++k) next[k] = part[k * S::kConsumers];
#pragma unroll
      for (int k = 0; k < kPairs; ++k) held[k] = {held[k].x + next[k].x, held[k].y + next[k].y};
    }
  }

  // Two lanes of neighbouring outputs exchange sums, so that each has both outputs of a token.
  __device__ void store(float2 (&held)[kPairs], int i) const {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, odd = lane / 4 % 2;
    const int g = S::kGroups == 1 ? 0 : thread / 128;
    const int n = group(i) * S::kOutputs + g * 64 + thread % 128 / 32 * 16 + lane / 8 * 2 +
                  (S::kTeams > 1 ? team() * 8 : 0);
    const int first = lane % 4 * 2 + odd, last = n + (S::kTeams > 1 ? 1 : 9);
#pragma unroll
    for (float2& v : held) {
      const float other = __shfl_xor_sync(0xffffffffu, odd ? v.x : v.y, 4);
      v = odd ? float2{other, v.y} : float2{v.x, other};
    }
    Y* y = a.y + first * a.y_stride + n;
    const bool wide = a.wide_rows && last < a.N;
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      // Without teams a token's pairs are eight outputs apart.
      constexpr int kRows = S::kTeams > 1 ? 1 : 2;
      const int token = k / kRows * 8, row = k % kRows * 8;
      if (k > 0 && row == 0) y += 8 * a.y_stride;
      if (first + token < a.M) put(y + row, a.N - n - row, wide, held[k]);
    }
  }

  // At most `room` outputs.
  __device__ static void put(Y* y, int room, bool wide, const float2& v) {
    if (!wide) {
      if (room > 0) Vec<Y>::store(y, v.x);
      if (room > 1) Vec<Y>::store(y + 1, v.y);
    } else if constexpr (sizeof(Y) == 4) {
      *reinterpret_cast<float2*>(y) = v;
    } else {
      *reinterpret_cast<uint32_t*>(y) = device::pack_bf16(v.x, v.y);
    }
  }
};

}  // namespace
}  // namespace fathom::ops
