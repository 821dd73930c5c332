// Row rings_sm90 of fp8_block_gemm: what lies in a CTA's shared memory, and the end of a group of
// outputs: how CTAs that share it add their sums up, and how it leaves.
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

constexpr int kTokens = 128;                // 64 for each of two warpgroups
constexpr int kConsumers = 256;             // two warpgroups
constexpr int kThreads = kConsumers + 128;  // registers move by warpgroups
constexpr int kTokenProducer = 2;           // a warp after the consumers; those before it: weights
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

template <int Outputs>
struct SharedStorage {
  static constexpr int kOutputs = Outputs;    // of a group
  static constexpr int kUnits = Outputs / 8;  // of 8 outputs: four sums of a thread
  static constexpr int kSums = Outputs / 2;   // of a thread
  // A CTA has one group at most, and its outputs become rows where tokens were.
  static constexpr bool kOnce = Outputs < 128;
  static constexpr int kWeightSlots = kOnce ? 90 / kUnits : 7, kTokenSlots = kOnce ? 8 : 5;
  static constexpr int kWindow = (256 + Outputs - 1) / Outputs;  // slots: 32 KB of weights
  static constexpr int kRowSlot = kOnce ? 0 : kTokenSlots;       // and the next one
  static constexpr int kInbox = (kUnits + 3) / 4;        // slots: of the others' sums no more come
  static constexpr int kPieces = Outputs == 64 ? 1 : 2;  // tiles with weights of a group
  static constexpr int kScales = 128 % Outputs == 0 ? 1 : (kUnits + 3) / 4 * 4;  // of weights
  uint8_t w[kWeightSlots][Outputs * kTileRowBytes];
  uint8_t x[kOnce ? kTokenSlots : kTokenSlots + 2][kTokens * kTileRowBytes];
  float x_scale[kTokenSlots][kTokens];
  // [groups of this CTA][its blocks]: of all outputs, or of each unit.
  alignas(16) float w_scale[most_ring_units(kOutputs)][kScales];
  Barrier w_full[kWeightSlots], w_empty[kWeightSlots];
  Barrier x_full[kTokenSlots], x_empty[kTokenSlots];
  Barrier room, come[2];  // for this part's sums at the others; the others', to a warpgroup
};

// A CTA's place in the work, and the end of a group.
template <class S, class Y>
struct RingPart {
  const Arguments<Y>& a;
  S& s;
  int part, cluster;
  int first_block, blocks, groups;
  int warpgroup;

  __device__ RingPart(const Arguments<Y>& arguments, S& storage) : a(arguments), s(storage) {
    cluster = a.places.divided(static_cast<int>(blockIdx.x));
    part = static_cast<int>(blockIdx.x) - cluster * a.plan.parts;
    first_block = a.places.divided(part * a.plan.blocks);
    blocks = blocks_of(part);
    groups = a.places.groups_of(cluster);
    warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
  }

  __device__ int blocks_of(int p) const {
    return a.places.divided((p + 1) * a.plan.blocks) - a.places.divided(p * a.plan.blocks);
  }
  __device__ int group(int i) const { return cluster + i * a.plan.clusters; }
  // The first of the units of outputs that a part ends up with.
  __device__ int first_unit(int p) const {
    return a.places.divided(p * S::kUnits + a.plan.parts - 1);
  }
  __device__ static void add(float* d, const float4& v) {
    d[0] += v.x;
    d[1] += v.y;
    d[2] += v.z;
    d[3] += v.w;
  }

  // This thread's place for the u-th unit that the others send to part p, in their order: in the
  // slots of tokens that would be refilled next (make_room).
  __device__ float4* inbox(int p, int u) const {
    constexpr int kUnitBytes = kConsumers * 16, kOfSlot = kTokens * kTileRowBytes / kUnitBytes;
    const int slot = (blocks_of(p) + u / kOfSlot) % S::kTokenSlots;
    return reinterpret_cast<float4*>(s.x[slot] + u % kOfSlot * kUnitBytes) + threadIdx.x;
  }
  // All that comes to a warpgroup.
  __device__ uint32_t inbox_bytes() const {
    return static_cast<uint32_t>(
        (a.plan.parts - 1) * (first_unit(part + 1) - first_unit(part)) * 128 * 16
    );
  }

  // Each part sends the others the sums of their outputs, and adds those that come to it. The code
  // is short, since it runs once and cold.
  __device__ void meet_parts(float (&sum)[S::kSums]) {
    const int parts = a.plan.parts;
    s.room.wait(0);
#pragma unroll 1
    for (int p = 0; p < parts; ++p) {
      if (p == part) continue;
      const int begin = first_unit(p), end = first_unit(p + 1);
      const auto rank = static_cast<uint32_t>(p);
      const uint32_t come = device::peer_address(device::shared_address(&s.come[warpgroup]), rank);
      const int place = (part < p ? part : part - 1) * (end - begin);
#pragma unroll
      for (int j = 0; j < S::kUnits; ++j) {
        const float* d = sum + 4 * j;
        if (j < begin || j >= end) continue;
        device::send_async(
            device::peer_address(device::shared_address(inbox(p, place + j - begin)), rank),
            make_float4(d[0], d[1], d[2], d[3]),
            come
        );
      }
    }
    const int begin = first_unit(part), end = first_unit(part + 1);
    s.come[warpgroup].wait_cluster(0);
#pragma unroll 1
    for (int p = 0; p < parts - 1; ++p) {
#pragma unroll
      for (int j = 0; j < S::kUnits; ++j) {
        if (j < begin || j >= end) continue;
        add(sum + 4 * j, *inbox(part, p * (end - begin) + j - begin));
      }
    }
  }

  __device__ void finish(float (&sum)[S::kSums], int i) {
    // What follows from them is not kept in registers over the blocks.
    asm volatile("" : "+r"(part), "+r"(cluster));
    if constexpr (S::kOnce) {
      if (a.plan.parts > 1) meet_parts(sum);
      device::named_barrier<kMeet>(kConsumers);  // nobody reads the ring any more
    }
    const int begin = first_unit(part), end = first_unit(part + 1);
    const int output = group(i) * S::kOutputs, first_token = warpgroup * 64;
    if constexpr (sizeof(Y) == 2) {
      uint8_t* rows = s.x[S::kRowSlot + warpgroup];
      device::named_barrier(kStore + warpgroup, 128);
      stage(sum, rows);
      device::named_barrier(kStore + warpgroup, 128);
      store_rows(rows, begin, end, output, first_token);
    } else {
      store_elements(sum, begin, end, output, first_token);
    }
  }

  // As rows of 256 bytes, a token each, swizzled.
  __device__ static void stage(const float (&sum)[S::kSums], uint8_t* rows) {
    const int lane = static_cast<int>(threadIdx.x) % 32,
              warp = static_cast<int>(threadIdx.x) / 32 % 4;
    const int token = 16 * warp + lane % 16;
    const uint32_t row = device::shared_address(rows) + static_cast<uint32_t>(token * 256);
#pragma unroll
    for (int i = 0; i < S::kUnits; i += 2) {
      const int j = i + 1 < S::kUnits ? i : i - 1;  // of an odd number the last but one again
      const float* d = sum + 4 * j;
      device::store_blocks(
          row + static_cast<uint32_t>(((j + lane / 16) ^ token % 8) * 16),
          device::pack_bf16(d[0], d[1]),
          device::pack_bf16(d[2], d[3]),
          device::pack_bf16(d[4], d[5]),
          device::pack_bf16(d[6], d[7])
      );
    }
  }

  // Every 128th chunk of 16 bytes of the warpgroup's rows.
  __device__ void store_rows(const uint8_t* rows, int begin, int end, int output, int first_token)
      const {
    constexpr int kColumns = S::kUnits == 8 ? 8 : 16, kStep = 128 / kColumns;
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int unit = thread % kColumns, row = thread / kColumns;
    if (unit < begin || unit >= end) return;
    const int n = output + 8 * unit, tokens = min(a.M - first_token, 64) - row;
    rows += row * 256 + (unit ^ row % 8) * 16;  // kStep is 8 or 16: the swizzle stays
    Y* y = a.y + (first_token + row) * a.y_stride + n;
    if (!a.wide_rows || n + 8 > a.N) {
      store_narrow<kStep>(rows, y, tokens, a.N - n);
      return;
    }
    constexpr int kTurns = 64 / kStep;
    uint4 v[kTurns] = {};
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      if (i * kStep < tokens) v[i] = *reinterpret_cast<const uint4*>(rows + i * kStep * 256);
    }
#pragma unroll
    for (int i = 0; i < kTurns; ++i, y += kStep * a.y_stride) {
      if (i * kStep < tokens) *reinterpret_cast<uint4*>(y) = v[i];
    }
  }

  // Every kStep-th of `tokens`, at most `room` outputs of each.
  template <int Step>
  __device__ void store_narrow(const uint8_t* rows, Y* y, int tokens, int room) const {
#pragma unroll 1
    for (; tokens > 0; tokens -= Step, rows += Step * 256, y += Step * a.y_stride) {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        if (k < room) y[k] = reinterpret_cast<const Y*>(rows)[k];
      }
    }
  }

  __device__ void store_elements(
      const float (&sum)[S::kSums], int begin, int end, int output, int first_token
  ) const {
    const int thread = static_cast<int>(threadIdx.x);
    const int token = first_token + thread % 128 / 32 * 16 + thread % 32 / 4;
    output += thread % 4 * 2;
    Y* y = a.y + token * a.y_stride + output;
#pragma unroll
    for (int j = 0; j < S::kUnits; ++j) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int row = k / 2 * 8, column = 8 * j + k % 2;
        if (j < begin || j >= end || token + row >= a.M || output + column >= a.N) continue;
        Vec<Y>::store(y + row * a.y_stride + column, sum[4 * j + k]);
      }
    }
  }
};

}  // namespace
}  // namespace fathom::ops
