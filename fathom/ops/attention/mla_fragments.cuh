// mla_decode: what a thread holds of a query's sums, as parts leave it for each other and as it
// becomes output; where it lies until then.
//
// Sums leave as F16 in a unit of their part and head: the sum of their magnitudes becomes 2^14 to
// 2^15, so that none overflows and what is 2^20 times smaller than the largest still has F16's
// eleven bits, three more than the output. Total and maximum leave in the same unit (mla_combine).
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/attention/mla_split.cuh"
#include "fathom/ops/attention/mla_units.cuh"
#include "fathom/ops/device/matrix_store.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops::mla {

constexpr int kWarpgroup = 128;
constexpr int kLatent = 512;

// Where results go; strides in elements.
struct Output {
  __nv_bfloat16* out;
  float* lse;  // null: not wanted
  int64_t token_stride, head_stride, lse_stride;
  int heads;
};

// A fragment of the sums, number `index` of a query and group: kValues of two heads, `head` and
// kOther further. Pairs (float2): of the one and of the other.
//
// O^T, dims by heads: dims d and d + 8 of heads h and h + 1.
template <int Heads>
struct DimsByHeads {
  static constexpr int kValues = 4, kOther = 1;
  static constexpr int kNeighbours = 1;  // fragments that only become output together
  using Stored = uint2;
  int dim, head;

  static __device__ __forceinline__ DimsByHeads at(int index) {
    const int thread = index % kWarpgroup, block = index / kWarpgroup;
    return {
        block / (Heads / 8) * 64 + thread / 32 * 16 + thread % 32 / 4,
        block % (Heads / 8) * 8 + thread % 4 * 2};
  }
  static __device__ __forceinline__ Stored pack(const float* sum, float2 inverse_unit) {
    const auto [x, y] = inverse_unit;
    return {pack_f16(sum[0] * x, sum[1] * y), pack_f16(sum[2] * x, sum[3] * y)};
  }
  static __device__ __forceinline__ void add(float (&sum)[kValues], float2 weight, Stored v) {
    const float2 low = unpack_f16(v.x), high = unpack_f16(v.y);
    sum[0] = fmaf(weight.x, low.x, sum[0]);
    sum[1] = fmaf(weight.y, low.y, sum[1]);
    sum[2] = fmaf(weight.x, high.x, sum[2]);
    sum[3] = fmaf(weight.y, high.y, sum[3]);
  }
  static __device__ __forceinline__ void scale(
      const float (&sum)[kValues], float2 factor, float (&v)[kValues]
  ) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) v[i] = sum[i] * (i % 2 == 0 ? factor.x : factor.y);
  }
  // By all threads of a warp; `inside`: whether this one has a fragment.
  __device__ __forceinline__ void store(
      const Output& to, int token, int group, const float (&v)[kValues], bool inside = true
  ) const {
    const int first = group * Heads + head;
    __nv_bfloat16* out = to.out + token * to.token_stride + first * to.head_stride + dim;
    if (inside && first < to.heads) {
      out[0] = __float2bfloat16_rn(v[0]);
      out[8] = __float2bfloat16_rn(v[2]);
    }
    if (inside && first + 1 < to.heads) {
      out[to.head_stride] = __float2bfloat16_rn(v[1]);
      out[to.head_stride + 8] = __float2bfloat16_rn(v[3]);
    }
  }
};

// O, 64 heads by dims: dims d, d + 1, d + 8, d + 9 of heads h and h + 8; of each four neighbours
// together 16 dims.
struct HeadsByDims {
  static constexpr int kValues = 8, kOther = 8;
  static constexpr int kNeighbours = 4;
  using Stored = uint4;
  int dim, head, lane;  // the first dim of all four

  static __device__ __forceinline__ HeadsByDims at(int index) {
    const int thread = index % kWarpgroup;
    return {index / kWarpgroup * 16, thread / 32 * 16 + thread % 32 / 4, thread % 4};
  }
  // v: [dims d, d + 8][heads][2 dims].
  static __device__ __forceinline__ Stored pack(const float* sum, float2 inverse_unit) {
    const auto [x, y] = inverse_unit;
    return {
        pack_f16(sum[0] * x, sum[1] * x),
        pack_f16(sum[2] * y, sum[3] * y),
        pack_f16(sum[4] * x, sum[5] * x),
        pack_f16(sum[6] * y, sum[7] * y)};
  }
  static __device__ __forceinline__ void add(float (&sum)[kValues], float2 weight, Stored v) {
    const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 of_pair = unpack_f16(word[i]);
      const float w = i % 2 == 0 ? weight.x : weight.y;
      sum[2 * i] = fmaf(w, of_pair.x, sum[2 * i]);
      sum[2 * i + 1] = fmaf(w, of_pair.y, sum[2 * i + 1]);
    }
  }
  static __device__ __forceinline__ void scale(
      const float (&sum)[kValues], float2 factor, float (&v)[kValues]
  ) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) v[i] = sum[i] * (i / 2 % 2 == 0 ? factor.x : factor.y);
  }
  __device__ __forceinline__ void store(
      const Output& to, int token, int group, const float (&v)[kValues], bool inside = true
  ) const {
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) word[i] = device::pack_bf16(v[2 * i], v[2 * i + 1]);
    device::transpose_of_four(word, lane);  // eight dims of a head
    const int row = group * 64 + head + lane % 2 * kOther;
    if (!inside || row >= to.heads) return;
    __nv_bfloat16* out = to.out + token * to.token_stride + row * to.head_stride + dim;
    *reinterpret_cast<uint4*>(out + lane / 2 * 8) = uint4{word[0], word[1], word[2], word[3]};
  }
};

// What parts leave for each other; slot = (part x groups + group) x 2, + 1 for a query that begins
// inside the part.
struct Partials {
  void* sums;          // F16 [slots][kLatent x Heads], in the order of the fragments
  float2* statistics;  // [slots][Heads]: maximum (of scores x log2 e), total
  uint32_t* arrivals;  // [queries][groups], zero before and after
};

// Up to so many parts of a query leave none of what they add up themselves: those of add_few.
constexpr int kKeptParts = 16;

// Scratch in shared memory, over the ring that nobody needs any more.
template <int Heads>
struct CombineScratch {
  float weight[kMaxParts][Heads];  // the maxima first
  float total[kMaxParts][Heads];
  float largest[2 * kWarpgroup], share[2 * kWarpgroup];  // of some parts: largest and all totals
  float inverse[Heads];                                  // of the totals
  float4 sum[2][2 * kWarpgroup];
  // 64 heads: a part's sums of its own share of the output.
  uint4 kept[Heads == 64 ? kLatent * Heads / 16 : 1];
};

}  // namespace fathom::ops::mla
