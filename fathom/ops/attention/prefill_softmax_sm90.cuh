// mha_prefill, row sm90: one warpgroup's softmax and output, in the fragments of its products.
#pragma once

#include "fathom/ops/attention/prefill_tiles.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops::prefill {

constexpr int kScores = kKeys / 2;  // of a thread
constexpr float kLog2e = 1.44269504f;

// Of a thread's two queries: rows g and g + 8 of its warp's 16; index h below.
template <int Dv>
struct State {
  float output[Dv / 2];
  float maximum[2], total[2];  // totals of own keys
  int position[2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      maximum[h] = -INFINITY;
      total[h] = 0;
    }
#pragma unroll
    for (int i = 0; i < Dv / 2; ++i) output[i] = 0;
  }

  // Scores of keys that the query does not see become -inf. window 0: all before it. N: scores of a
  // whole block, or of its first half.
  template <int N>
  __device__ __forceinline__ void mask(float (&score)[N], int first_key, int window) const {
    const auto seen = window > 0 ? static_cast<uint32_t>(window) : 0x80000000u;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int behind = position[h] - first_key - 2 * static_cast<int>(threadIdx.x % 4);
#pragma unroll
      for (int i = 0; i < N / 4; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          // Beyond the query's position the difference is negative: a large unsigned one.
          if (static_cast<uint32_t>(behind - (8 * i + j)) >= seen)
            score[4 * i + 2 * h + j] = -INFINITY;
        }
      }
    }
  }

  // Scores become weights exp2(score - maximum); `kept`: what older sums count for. Returns whether
  // that is less than all for a query of the warp.
  template <int N>
  __device__ __forceinline__ bool soften(float (&score)[N], float scale, float (&kept)[2]) {
    const bool raised = raise(score, scale, kept);
    const float base[2] = {base_of(0, scale), base_of(1, scale)};
#pragma unroll
    for (int i = 0; i < N / 4; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float(&v)[2] = reinterpret_cast<float(&)[2]>(score[4 * i + 2 * h]);
        v[0] = device::exp2_approx(fmaf(v[0], scale, -base[h]));
        v[1] = device::exp2_approx(fmaf(v[1], scale, -base[h]));
        total[h] += v[0] + v[1];
      }
    }
    return raised;
  }

  // A query's maximum stays unless a score exceeds it by kSlack (of log2): weights of up to
  // 2^kSlack are as exact. So most blocks need no maxima of other lanes and leave the sums as they
  // are.
  template <int N>
  __device__ __forceinline__ bool raise(const float (&score)[N], float scale, float (&kept)[2]) {
    constexpr int kChains = 4;
    constexpr float kSlack = 8;
    float top[2][kChains];
#pragma unroll
    for (int i = 0; i < N / 4; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float pair = fmaxf(score[4 * i + 2 * h], score[4 * i + 2 * h + 1]);
        float& t = top[h][i % kChains];
        t = i < kChains ? pair : fmaxf(t, pair);
      }
    }
    bool beyond = false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      top[h][0] = fmaxf(fmaxf(top[h][0], top[h][1]), fmaxf(top[h][2], top[h][3]));
      beyond |= (top[h][0] - maximum[h]) * scale > kSlack;
      kept[h] = 1;
    }
    const bool raised = __any_sync(device::kFullWarp, beyond);
    if (!raised) return false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float t = top[h][0];
      t = fmaxf(t, __shfl_xor_sync(device::kFullWarp, t, 1));
      t = fmaxf(t, __shfl_xor_sync(device::kFullWarp, t, 2));
      if ((t - maximum[h]) * scale > kSlack) {
        kept[h] = device::exp2_approx((maximum[h] - t) * scale);
        maximum[h] = t;
        total[h] *= kept[h];
      }
    }
    return true;
  }

  // A query that has seen no key has weights of zero from any base.
  __device__ __forceinline__ float base_of(int h, float scale) const {
    return maximum[h] == -INFINITY ? 0.0f : maximum[h] * scale;
  }

  // The sums so far under the new maxima.
  __device__ __forceinline__ void fade(const float (&kept)[2]) {
#pragma unroll
    for (int i = 0; i < Dv / 2; ++i) output[i] *= kept[i / 2 % 2];
  }
};

// Weights as operand A of the product with the values.
using Weights = uint32_t[kKeys / 16][4];

// Of the first half of a block: the others are zero.
template <int N>
__device__ __forceinline__ void pack_weights(const float (&score)[N], Weights& weight) {
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = 8 * k + 2 * i;
      weight[k][i] = at < N ? device::pack_bf16(score[at % N], score[at % N + 1]) : 0;
    }
  }
}

// The output of query h of the thread to `y`: Dv elements, 32 consecutive bytes at a time from the
// four lanes that share it; lanes exchange in pairs so that each has four elements in a row. All
// lanes of the warp must come.
template <int Dv>
__device__ __forceinline__ void store_output(
    const float (&output)[Dv / 2], int h, __nv_bfloat16* y, bool wanted
) {
  const bool odd = threadIdx.x % 2 != 0;
  y += threadIdx.x % 4 * 2 + (odd ? 6 : 0);
#pragma unroll
  for (int j = 0; j < Dv / 16; ++j) {
    uint32_t v[2];  // of eight elements, and of the next eight
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float* from = output + 4 * (2 * j + k) + 2 * h;
      v[k] = device::pack_bf16(from[0], from[1]);
    }
    const uint32_t other = __shfl_xor_sync(device::kFullWarp, odd ? v[0] : v[1], 1);
    if (wanted)
      *reinterpret_cast<uint2*>(y + 16 * j) = odd ? uint2{other, v[1]} : uint2{v[0], other};
  }
}

}  // namespace fathom::ops::prefill
