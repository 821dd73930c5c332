// Row rings_sm90 of fp8_block_gemm: what lies in a CTA's shared memory, and the end of a group of
// outputs: how teams and CTAs that share it add their sums up, and how it leaves.
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/device/cluster.cuh"
#include "fathom/ops/device/divisor.cuh"
#include "fathom/ops/device/matrix_store.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/fp8_block_gemm_rows.h"
#include "fathom/ops/gemm/weight_tiles.h"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Vec;

constexpr int kTokens = 128;
constexpr int kConsumers = 256;             // two warpgroups
constexpr int kThreads = kConsumers + 128;  // registers move by warpgroups
constexpr int kTokenProducer = 2;           // a warp after the consumers; those before it: weights
constexpr int kUnits = kTokens / 8;         // of 8 tokens: four sums of a thread
constexpr int kSums = kTokens / 2;          // of a thread
// Named barriers; of kStore one a warpgroup. kReady: the mbarriers are initialised.
constexpr int kMeet = 1, kStore = 2, kReady = 4;

template <class Y>
struct Arguments {
  const uint8_t* w;
  const float* w_scale;
  const float* x_scale;
  Y* y;
  int64_t y_stride;
  int M, N;
  int x_scale_columns;
  bool wide_rows;  // of y: 16 bytes at an aligned place
  RingPlan plan;
  PlanPlaces places;
};

// Outputs of a group: 128, 64 for each warpgroup; or 64, whose blocks the warpgroups ("teams") take
// in turn.
template <int Outputs>
struct SharedStorage {
  static constexpr int kOutputs = Outputs, kHalves = Outputs / 64, kTeams = 2 / kHalves;
  // Even where there are teams: a slot always falls to the same one.
  static constexpr int kWeightSlots = kTeams == 1 ? 7 : 10, kTokenSlots = kTeams == 1 ? 5 : 6;
  static constexpr int kOwned = kUnits / kTeams;  // units of a warpgroup once the teams have met
  uint8_t w[kWeightSlots][kHalves][kTileBytes];
  uint8_t x[kTokenSlots][kTokens * kTileRowBytes];
  uint8_t y[2][kTokens * 128];  // of a warpgroup: rows of 64 outputs, swizzled
  float x_scale[kTokenSlots][kTokens];
  Barrier w_full[kWeightSlots], w_empty[kWeightSlots];
  Barrier x_full[kTokenSlots], x_empty[kTokenSlots];
  Barrier shown[2];                          // to this warpgroup: the other parts' sums
  float w_scale[most_ring_units(kOutputs)];  // [groups of this CTA][its blocks]
};

// A CTA's place in the work, and the end of a group.
template <class S, class Y>
struct RingPart {
  const Arguments<Y>& a;
  S& s;
  int part, cluster;
  int first_block, blocks, groups;
  int warpgroup, first_owned;  // unit

  __device__ RingPart(const Arguments<Y>& arguments, S& storage) : a(arguments), s(storage) {
    cluster = a.places.divided(static_cast<int>(blockIdx.x));
    part = static_cast<int>(blockIdx.x) - cluster * a.plan.parts;
    first_block = a.places.divided(part * a.plan.blocks);
    blocks = a.places.divided((part + 1) * a.plan.blocks) - first_block;
    groups = a.places.groups_of(cluster);
    warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
    first_owned = team() * S::kOwned;
  }

  __device__ int group(int i) const { return cluster + i * a.plan.clusters; }
  __device__ int half() const { return S::kHalves == 1 ? 0 : warpgroup; }
  __device__ int team() const { return S::kTeams == 1 ? 0 : warpgroup; }

  // Of a warpgroup's units, the first of those that a part ends up with.
  __device__ int first_unit(int p) const {
    return a.places.divided(p * S::kOwned + a.plan.parts - 1);
  }
  __device__ static void add(float* d, const float4& v) {
    d[0] += v.x;
    d[1] += v.y;
    d[2] += v.z;
    d[3] += v.w;
  }

  // Each team gives the other the sums of half of the tokens. A CTA's only group: the ring is free.
  __device__ void meet_team(float (&sum)[kSums]) {
    float4* mine = reinterpret_cast<float4*>(s.x[0]) + static_cast<int>(threadIdx.x) % 128;
    device::named_barrier<kMeet>(kConsumers);
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      const float* d = sum + 4 * j;
      if (j / S::kOwned != team()) mine[j * 128] = {d[0], d[1], d[2], d[3]};
    }
    device::named_barrier<kMeet>(kConsumers);
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      if (j / S::kOwned == team()) add(sum + 4 * j, mine[j * 128]);
    }
  }

  // Each part shows the sums of the others' tokens in its shared memory, and adds those that they
  // show. A CTA's only group: the ring is free. The code is short, since it runs once and cold.
  __device__ void meet_parts(float (&sum)[kSums]) {
    const int thread = static_cast<int>(threadIdx.x) % 128, parts = a.plan.parts;
    const int begin = first_owned + first_unit(part), end = first_owned + first_unit(part + 1);
    float4* mine = reinterpret_cast<float4*>(s.w[0][0]) +
                   (half() * kUnits * 128 + thread);  // teams have units of their own
    if constexpr (S::kTeams == 1) device::named_barrier<kMeet>(kConsumers);
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      const float* d = sum + 4 * j;
      const bool of_others =
          (j < begin && j >= first_owned) || (j >= end && j < first_owned + S::kOwned);
      if (of_others) mine[j * 128] = make_float4(d[0], d[1], d[2], d[3]);
    }
    device::cluster_wait();  // the peers' barriers are there
    device::named_barrier(kStore + warpgroup, 128);
    Barrier& shown = s.shown[warpgroup];
    if (thread < parts && thread != part)
      device::show_shared_at(shown, static_cast<uint32_t>(thread));
    device::wait_shown(shown, 0);
#pragma unroll 1
    for (int p = 0; p < parts; ++p) {
      if (p == part) continue;
      const float4* theirs = device::peer_object(mine, static_cast<uint32_t>(p));
      constexpr int kAtOnce = 8;
#pragma unroll
      for (int first = 0; first < kUnits; first += kAtOnce) {
        float4 v[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int unit = first + j;
          v[j] = unit >= begin && unit < end ? theirs[unit * 128] : float4{};
        }
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) add(sum + 4 * (first + j), v[j]);
      }
    }
  }

  __device__ void finish(float (&sum)[kSums], int i) {
    // What follows from them is not kept in registers over the blocks.
    asm volatile("" : "+r"(part), "+r"(cluster));
    if constexpr (S::kTeams > 1) meet_team(sum);
    if (a.plan.parts > 1) meet_parts(sum);
    const int begin = 8 * (first_owned + first_unit(part));
    const int end = min(8 * (first_owned + first_unit(part + 1)), a.M);
    const int output = group(i) * S::kOutputs + half() * 64;
    if constexpr (sizeof(Y) == 2) {
      uint8_t* rows = s.y[warpgroup];
      device::named_barrier(kStore + warpgroup, 128);
      stage(sum, rows);
      device::named_barrier(kStore + warpgroup, 128);
      store_rows(rows, begin, end, output);
    } else {
      store_elements(sum, begin, end, output);
    }
  }

  // As rows of 64 outputs of a token, swizzled.
  __device__ static void stage(const float (&sum)[kSums], uint8_t* rows) {
    const int lane = static_cast<int>(threadIdx.x) % 32,
              warp = static_cast<int>(threadIdx.x) / 32 % 4;
    const int octet = 2 * warp + lane / 8 % 2, token = lane / 16 * 8 + lane % 8;
    const uint32_t to = device::shared_address(rows) +
                        static_cast<uint32_t>(token * 128 + (octet ^ (lane % 8)) * 16);
#pragma unroll
    for (int j = 0; j < kUnits; j += 2) {
      const float* d = sum + 4 * j;
      device::store_blocks_transposed(
          to + static_cast<uint32_t>(j * 8 * 128),
          device::pack_bf16(d[0], d[1]),
          device::pack_bf16(d[2], d[3]),
          device::pack_bf16(d[4], d[5]),
          device::pack_bf16(d[6], d[7])
      );
    }
  }

  __device__ void store_rows(const uint8_t* rows, int begin, int end, int output) const {
    const int thread = static_cast<int>(threadIdx.x) % 128, octet = thread % 8;
    const int first = begin + thread / 8, n = output + octet * 8;
    rows += first * 128 + (octet ^ (first & 7)) * 16;  // 16 tokens on, the swizzle is the same
    Y* y = a.y + first * a.y_stride + n;
    if (!a.wide_rows || n + 8 > a.N) {
      store_narrow(rows, y, end - first, a.N - n);
      return;
    }
    constexpr int kTurns = S::kOwned * 8 / 16;
    uint4 v[kTurns] = {};
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      if (first + i * 16 < end) v[i] = *reinterpret_cast<const uint4*>(rows + i * 16 * 128);
    }
#pragma unroll
    for (int i = 0; i < kTurns; ++i, y += 16 * a.y_stride) {
      if (first + i * 16 < end) *reinterpret_cast<uint4*>(y) = v[i];
    }
  }

  // Every 16th of `tokens`, at most `room` outputs of each.
  __device__ void store_narrow(const uint8_t* rows, Y* y, int tokens, int room) const {
#pragma unroll 1
    for (; tokens > 0; tokens -= 16, rows += 16 * 128, y += 16 * a.y_stride) {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        if (k < room) y[k] = reinterpret_cast<const Y*>(rows)[k];
      }
    }
  }

  __device__ void store_elements(const float (&sum)[kSums], int begin, int end, int output) const {
    const int thread = static_cast<int>(threadIdx.x);
    const int n = output + thread % 128 / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
    const int64_t stride = a.y_stride;
    Y* y = a.y + column * stride + n;
    begin -= column;
    end -= column;
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int token = 8 * j + k % 2;
        if (token < begin || token >= end || n + k / 2 * 8 >= a.N) continue;
        Vec<Y>::store(y + k % 2 * stride + k / 2 * 8, sum[4 * j + k]);
      }
      y += 8 * stride;
    }
  }
};

}  // namespace
}  // namespace fathom::ops
