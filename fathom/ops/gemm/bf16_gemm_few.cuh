// Row few_sm90 of bf16_gemm: how a CTA is cut, what lies in its shared memory, and its end: how the
// CTAs of a cluster add up their sums of a group of outputs, and how these leave.
#pragma once

#include <algorithm>

#include "fathom/ops/device/cluster.cuh"
#include "fathom/ops/device/matrix_store.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/bf16_gemm_rows.h"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Vec;

constexpr int kPanel = 64;      // k of 128 bytes
constexpr int kRowBytes = 128;  // of a panel
constexpr int kConsumers = 128;
constexpr int kThreads = kConsumers + 32;
// Named barriers: of the consumers; the mbarriers are initialised.
constexpr int kMeet = 1, kReady = 2;

struct Arguments {
  const void* bias;  // null: none
  void* y;
  int64_t y_stride;
  int M, N;
  int parts;          // of K, one for each CTA of a cluster
  uint32_t by_parts;  // 1 / parts in 1/65536, rounded up
  int slots, longer;  // of K of a part; the first parts have one more
  bool wide_y, wide_bias;
  bool wide_rows;  // of y, bf16: 16 bytes at an aligned place

  // n / parts of small n.
  __device__ int divided(int n) const {
    return static_cast<int>(static_cast<uint32_t>(n) * by_parts >> 16);
  }
};

// Units of sums that come to a CTA from the others of its cluster.
constexpr int most_letters(int units, int most_parts) {
  int most = 0;
  for (int parts = 2; parts <= most_parts; ++parts)
    most = std::max(most, (units + parts - 1) / parts * (parts - 1));
  return most;
}

// Fewer than of weights: tokens come from L2, sooner.
constexpr int token_slots(int tokens, bool whole) {
  if (!whole) return tokens == 64 ? 6 : 4;
  if (tokens <= 32) return 6;
  return tokens == 64 ? 8 : 7;
}

// Up to `Tokens` tokens. Whole: a CTA takes a whole SM, for its rings.
template <int Tokens, bool Whole>
struct Shape {
  static constexpr int kTokens = Tokens;
  static constexpr int kResident = Whole ? 1 : 2;
  static constexpr int kMostParts = Tokens <= 32 ? 8 : Whole ? 4 : 1;
  static constexpr int kSums = Tokens / 2;   // of a thread
  static constexpr int kUnits = Tokens / 8;  // of 8 tokens: four sums of a thread
  static constexpr int kLetters = most_letters(kUnits, kMostParts);
  static constexpr int kPanels = Tokens <= 32 ? 2 : 1;  // of a slot
  static constexpr int kWeightBytes = kPanels * kFewOutputs * kRowBytes;
  static constexpr int kTokenBytes = kPanels * Tokens * kRowBytes;
  static constexpr int kRoom = (Whole ? 227 << 10 : 113 << 10) - 512 - kLetters * kConsumers * 16;
  static constexpr int kTokenSlots = token_slots(Tokens, Whole);
  static constexpr int kWeightSlots = (kRoom - kTokenSlots * kTokenBytes) / kWeightBytes;
  static_assert(kWeightSlots >= kTokenSlots);
};

template <class S>
struct SharedStorage {
  uint8_t w[S::kWeightSlots][S::kWeightBytes];
  uint8_t x[S::kTokenSlots][S::kTokenBytes];
  float4 letters[std::max(S::kLetters, 1)][kConsumers];  // as threads hold their sums
  Barrier w_full[S::kWeightSlots], x_full[S::kTokenSlots];
  Barrier empty[S::kWeightSlots];  // the slot of weights, and that of the tokens multiplied with it
  Barrier arrived;                 // all letters to this CTA

  // At the end rows of the outputs, swizzled, in the place of weights.
  static_assert(S::kTokens * kFewOutputs * 2 <= sizeof(w));
  __device__ uint8_t* rows() { return w[0]; }
};

// The end of a group. Short code, since it runs once and cold.
template <class S>
struct GroupEnd {
  static constexpr int kSums = S::kSums, kUnits = S::kUnits;
  const Arguments& a;
  SharedStorage<S>& s;
  const int group, part;
  const int output = group * kFewOutputs;  // the first
  const int thread = static_cast<int>(threadIdx.x);

  // Of the units of tokens, the first that a part ends up with.
  __device__ int first_unit(int p) const { return a.divided(p * kUnits + a.parts - 1); }
  __device__ int letters() const {
    return (a.parts - 1) * (first_unit(part + 1) - first_unit(part));
  }

  __device__ void finish(float (&sum)[kSums]) {
    const int begin = first_unit(part), end = first_unit(part + 1);
    if (a.parts > 1) meet(sum, begin, end);
    if (begin == end) return;
    if (a.bias != nullptr) add_bias(sum);
    if (a.wide_y) {
      store_elements(sum, 8 * begin, min(8 * end, a.M));
    } else {
      device::named_barrier<kMeet>(kConsumers);  // nobody reads the slots any more
      stage(sum);
      device::named_barrier<kMeet>(kConsumers);
      store_rows(8 * begin, min(8 * end, a.M));
    }
  }

  // Each part sends the others the sums of their tokens, and adds those that come, in the order of
  // the parts.
  __device__ void meet(float (&sum)[kSums], int begin, int end) {
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      const int to = j * a.parts / kUnits;
      if (to == part) continue;
      const int letter = (j - first_unit(to)) * (a.parts - 1) + part - (part > to ? 1 : 0);
      const float* d = sum + 4 * j;
      const auto there = [&](const void* own) {
        return device::peer_address(device::shared_address(own), static_cast<uint32_t>(to));
      };
      device::send_async(
          there(&s.letters[letter][thread]), {d[0], d[1], d[2], d[3]}, there(&s.arrived)
      );
    }
    if (begin == end) return;
    s.arrived.wait_cluster(0);
    const float4* letter = &s.letters[0][thread];
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      if (j < begin || j >= end) continue;
      float* d = sum + 4 * j;
#pragma unroll
      for (int i = 0; i < S::kMostParts - 1; ++i) {
        if (i >= a.parts - 1) continue;
        d[0] += letter->x;
        d[1] += letter->y;
        d[2] += letter->z;
        d[3] += letter->w;
        letter += kConsumers;
      }
    }
  }

  __device__ void add_bias(float (&sum)[kSums]) const {
    const int n = output + thread / 32 * 16 + thread % 32 / 4;
    const float low = bias(n), high = bias(n + 8);
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum[i] += i % 4 < 2 ? low : high;
  }
  __device__ float bias(int n) const {
    if (n >= a.N) return 0;
    return a.wide_bias ? __ldg(static_cast<const float*>(a.bias) + n)
                       : Vec<__nv_bfloat16>::load(static_cast<const __nv_bfloat16*>(a.bias) + n);
  }

  // As rows of the outputs of a token, swizzled.
  __device__ void stage(const float (&sum)[kSums]) const {
    const int lane = thread % 32, octet = 2 * (thread / 32) + lane / 8 % 2;
    const int token = lane / 16 * 8 + lane % 8;
    const uint32_t to = device::shared_address(s.rows()) +
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

  // 16 bytes a thread, of tokens [begin, end).
  __device__ void store_rows(int begin, int end) const {
    const int octet = thread % 8, first = begin + thread / 8, n = output + octet * 8;
    // 16 tokens on, the swizzle is the same.
    const uint8_t* rows = s.rows() + first * 128 + (octet ^ (first & 7)) * 16;
    auto* y = static_cast<__nv_bfloat16*>(a.y) + first * a.y_stride + n;
    const bool wide = a.wide_rows && n + 8 <= a.N;
#pragma unroll 1
    for (int token = first; token < end; token += 16, rows += 16 * 128, y += 16 * a.y_stride) {
      if (wide) {
        *reinterpret_cast<uint4*>(y) = *reinterpret_cast<const uint4*>(rows);
        continue;
      }
#pragma unroll 1
      for (int k = 0; k < 8 && n + k < a.N; ++k)
        y[k] = reinterpret_cast<const __nv_bfloat16*>(rows)[k];
    }
  }

  __device__ void store_elements(const float (&sum)[kSums], int begin, int end) const {
    const int n = output + thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
    float* y = static_cast<float*>(a.y) + column * a.y_stride + n;
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int token = 8 * j + column + k % 2;
        if (token >= begin && token < end && n + k / 2 * 8 < a.N)
          y[(8 * j + k % 2) * a.y_stride + k / 2 * 8] = sum[4 * j + k];
      }
    }
  }
};

}  // namespace
}  // namespace fathom::ops
