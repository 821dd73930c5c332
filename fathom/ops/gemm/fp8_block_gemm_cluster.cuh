// Row cluster_sm90 of fp8_block_gemm: how a CTA is cut, what lies in its shared memory, and how the
// CTAs of a cluster add up the sums of a group of outputs.
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/device/cluster.cuh"
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
  bool wide_rows;  // of y: four outputs at an aligned place
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
  static constexpr int kPadding = 4;     // floats after a token's sums
  static constexpr int kMaxUnits = 512;  // whose weight scales a CTA keeps
  static constexpr int kConsumers = kGroups * kTeams * 128;
  static constexpr int kThreads = kConsumers + (kMovesRegisters ? 128 : 64);
  static constexpr int kWeightWarp = kConsumers / 32, kTokenWarp = kWeightWarp + 1;
};

template <class S>
struct SharedStorage {
  uint8_t w[S::kStages][S::kGroups][S::kSlotBlocks][kTileBytes];
  uint8_t x[S::kPlacesOfX][S::kTokens * kTileRowBytes];
  float x_scale[S::kPlacesOfX * S::kTokens];
  float part[S::kTokens][S::kOutputs + S::kPadding];  // this CTA's sums of one group
  Barrier full[S::kStages], empty[S::kStages];
  Barrier parts_full, parts_empty;  // of the whole cluster
  float w_scale[S::kMaxUnits];      // [groups of this CTA][its blocks]; only as many as there are
};

// A CTA's place in the work, and the end of a group.
template <class S, class Y>
struct ClusterPart {
  static constexpr int kSums = S::kTokens / 2;
  static constexpr int kMaxCluster = 4;

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

  // Adds the teams' sums of the i-th group up where the cluster reads them.
  __device__ void publish(const float (&sum)[kSums], int i) {
    const int thread = static_cast<int>(threadIdx.x), g = S::kGroups == 1 ? 0 : thread / 128;
    const int row = g * 64 + thread % 128 / 32 * 16 + thread % 32 / 4, token = thread % 4 * 2;
    if (a.plan.cluster == 1) {
      device::named_barrier<1>(S::kConsumers);
    } else {
      s.parts_empty.wait_cluster(static_cast<uint32_t>(i % 2 ^ 1));
    }
#pragma unroll
    for (int t = S::kTeams - 1; t >= 0; --t) {
      if (t == team()) {
#pragma unroll
        for (int k = 0; k < kSums; ++k) {
          float& to = s.part[k / 4 * 8 + token + k % 2][row + k / 2 % 2 * 8];
          to = t == S::kTeams - 1 ? sum[k] : sum[k] + to;
        }
      }
      device::named_barrier<1>(S::kConsumers);
    }
    if (a.plan.cluster == 1) return;
    if (thread < a.plan.cluster) s.parts_full.arrive_at(static_cast<uint32_t>(thread));
    s.parts_full.wait_cluster(static_cast<uint32_t>(i % 2));
  }

  // Adds the parts of this CTA's share of the group's outputs, four a thread, and stores them.
  __device__ void store(int i) {
    constexpr int kFours = S::kOutputs / 4;
    const int all = min(a.M, S::kTokens) * kFours, ranks = a.plan.cluster;
    const int begin = a.places.divided(all * rank), end = a.places.divided(all * (rank + 1));
    for (int v = begin + static_cast<int>(threadIdx.x); v < end; v += S::kConsumers) {
      const int token = v / kFours, output = v % kFours * 4;
      const float* mine = &s.part[token][output];
      float4 sum{};
#pragma unroll
      for (int r = 0; r < kMaxCluster; ++r) {
        if (r >= ranks) continue;
        const float* part = ranks == 1 ? mine : device::peer_object(mine, static_cast<uint32_t>(r));
        const float4 next = *reinterpret_cast<const float4*>(part);
        sum = {sum.x + next.x, sum.y + next.y, sum.z + next.z, sum.w + next.w};
      }
      put(token, group(i) * S::kOutputs + output, sum);
    }
    if (ranks == 1) return;
    device::named_barrier<1>(S::kConsumers);
    if (static_cast<int>(threadIdx.x) < ranks) s.parts_empty.arrive_at(threadIdx.x);
  }

  __device__ void put(int token, int n, const float4& v) const {
    Y* y = a.y + token * a.y_stride + n;
    if (a.wide_rows && n + 3 < a.N) {
      if constexpr (sizeof(Y) == 4) {
        *reinterpret_cast<float4*>(y) = v;
      } else {
        *reinterpret_cast<uint2*>(y) = {device::pack_bf16(v.x, v.y), device::pack_bf16(v.z, v.w)};
      }
      return;
    }
    const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (n + i < a.N) Vec<Y>::store(y + i, values[i]);
    }
  }
};

}  // namespace
}  // namespace fathom::ops
