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

  // Scores of keys that the query does not see become -inf. window 0: all before it.
  __device__ __forceinline__ void mask(float (&score)[kScores], int first_key, int window) const {
    const auto seen = window > 0 ? static_cast<uint32_t>(window) : 0x80000000u;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int behind = position[h] - first_key - 2 * static_cast<int>(threadIdx.x % 4);
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          // Beyond the query's position the difference is negative: a large unsigned one.
          if (static_cast<uint32_t>(behind - (8 * i + j)) >= seen)
            score[4 * i + 2 * h + j] = -INFINITY;
        }
      }
    }
  }

  // Scores become weights exp2(score - maximum); `kept`: what older sums count for.
  __device__ __forceinline__ void soften(float (&score)[kScores], float scale, float (&kept)[2]) {
    float base[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float raised = maximum[h];
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i)
        raised = fmaxf(raised, fmaxf(score[4 * i + 2 * h], score[4 * i + 2 * h + 1]));
      raised = fmaxf(raised, __shfl_xor_sync(device::kFullWarp, raised, 1));
      raised = fmaxf(raised, __shfl_xor_sync(device::kFullWarp, raised, 2));
      base[h] = raised == -INFINITY ? 0.0f : raised * scale;
      kept[h] = device::exp2_approx(maximum[h] * scale - base[h]);
      maximum[h] = raised;
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& v = score[4 * i + 2 * h + j];
          v = device::exp2_approx(fmaf(v, scale, -base[h]));
          sum += v;
        }
      }
      total[h] = total[h] * kept[h] + sum;
    }
  }

  // The sums so far under the new maxima; most blocks raise none.
  __device__ __forceinline__ void fade(const float (&kept)[2]) {
    if (!__any_sync(device::kFullWarp, kept[0] != 1.0f || kept[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < Dv / 2; ++i) output[i] *= kept[i / 2 % 2];
  }
};

// Weights as operand A of the product with the values.
__device__ __forceinline__ void pack_weights(
    const float (&score)[kScores], uint32_t (&weight)[kKeys / 16][4]
) {
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      weight[k][i] = device::pack_bf16(score[8 * k + 2 * i], score[8 * k + 2 * i + 1]);
  }
}

// Lane t of each four holds v[k] = element t of chunk k; afterwards v[k] = element k of chunk t.
__device__ __forceinline__ void transpose_quad(uint32_t (&v)[4]) {
  const auto t = threadIdx.x % 4;
#pragma unroll
  for (int d = 1; d < 4; d *= 2) {
    const bool upper = (t & static_cast<unsigned>(d)) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & d) != 0) continue;
      const uint32_t other = __shfl_xor_sync(device::kFullWarp, upper ? v[i] : v[i + d], d);
      (upper ? v[i] : v[i + d]) = other;
    }
  }
}

// The output of query h of the thread, normalised, to `y`: Dv elements, 64 consecutive bytes at a
// time from the four lanes that share it. All lanes of the warp must come.
template <int Dv>
__device__ __forceinline__ void store_output(
    const float (&output)[Dv / 2], int h, float inverse, __nv_bfloat16* y, bool wanted
) {
#pragma unroll
  for (int j = 0; j < Dv / 32; ++j) {
    uint32_t v[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float* from = output + 4 * (4 * j + k) + 2 * h;
      v[k] = device::pack_bf16(from[0] * inverse, from[1] * inverse);
    }
    transpose_quad(v);
    if (wanted)
      *reinterpret_cast<uint4*>(y + 32 * j + 8 * (threadIdx.x % 4)) = {v[0], v[1], v[2], v[3]};
  }
}

}  // namespace fathom::ops::prefill
