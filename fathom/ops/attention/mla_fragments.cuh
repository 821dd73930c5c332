// mla_decode, 64 heads: what a thread holds of a query's sums, as parts leave it for each other and
// as it becomes output; where it lies until then. Units: mla_bundles.cuh.
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/attention/mla_bundles.cuh"
#include "fathom/ops/device/matrix_store.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops::mla {

// A fragment of the sums, number `index` of a query and group: kValues of two heads, `head` and
// kOther further. Pairs (float2): of the one and of the other.
//
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
  // To BF16, in pairs.
  static __device__ __forceinline__ void round(
      const float (&v)[kValues], uint32_t (&word)[kValues / 2]
  ) {
#pragma unroll
    for (int i = 0; i < kValues / 2; ++i) word[i] = device::pack_bf16(v[2 * i], v[2 * i + 1]);
  }
  __device__ __forceinline__ void store(
      const Output& to, int token, int group, const float (&v)[kValues], bool inside = true
  ) const {
    uint32_t word[4];
    round(v, word);
    device::transpose_of_four(word, lane);  // eight dims of a head
    const int row = group * 64 + head + lane % 2 * kOther;
    if (!inside || row >= to.heads) return;
    __nv_bfloat16* out = to.out + token * to.token_stride + row * to.head_stride + dim;
    *reinterpret_cast<uint4*>(out + lane / 2 * 8) = uint4{word[0], word[1], word[2], word[3]};
  }
};

// The same of FP8 rows: dims d, d + 2, then d + 1, d + 3.
struct HeadsByQuads : HeadsByDims {
  static __device__ __forceinline__ HeadsByQuads at(int index) { return {HeadsByDims::at(index)}; }
  // As BF16, in the order of the sums.
  __device__ __forceinline__ void store_words(
      const Output& to, int token, int group, const uint32_t (&word)[4]
  ) const {
    const int row = group * 64 + head;
    __nv_bfloat16* out = to.out + token * to.token_stride + row * to.head_stride + dim + 4 * lane;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (row + h * kOther >= to.heads) break;
      *reinterpret_cast<uint2*>(out + h * kOther * to.head_stride) = {
          __byte_perm(word[h], word[h + 2], 0x5410), __byte_perm(word[h], word[h + 2], 0x7632)};
    }
  }
  __device__ __forceinline__ void store(
      const Output& to, int token, int group, const float (&v)[kValues], bool inside = true
  ) const {
    uint32_t word[4];
    round(v, word);
    if (inside) store_words(to, token, group, word);
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
