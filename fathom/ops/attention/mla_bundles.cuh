// mla_decode: what parts of a query send each other of its sums, and what a thread holds of them
// until then.
//
// Sums leave as F16 in a unit of their part and head: the sum of their magnitudes becomes 2^14 to
// 2^15, so that none overflows and what is 2^20 times smaller than the largest still has F16's
// eleven bits, three more than the output.
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/attention/mla_split.cuh"
#include "fathom/ops/attention/mla_units.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops::mla {

constexpr int kWarpgroup = 128;
constexpr int kLatent = 512;
constexpr float kLn2 = 0.69314718f;

// Where results go; strides in elements. Tokens and heads are numbers among all.
struct Output {
  __nv_bfloat16* out;
  float* lse;  // null: not wanted
  int64_t token_stride, head_stride, lse_stride;
  int heads;

  // Of head `head`: `size`, the binary logarithm of its total.
  __device__ __forceinline__ void store_lse(int token, int head, float size) const {
    if (lse != nullptr && head < heads) lse[token * lse_stride + head] = size * kLn2;
  }
  // Dims `dim` and the next.
  __device__ __forceinline__ void store_pair(int token, int head, int dim, float2 v) const {
    __nv_bfloat16* to = out + token * token_stride + head * head_stride + dim;
    if (head < heads) *reinterpret_cast<uint32_t*>(to) = device::pack_bf16(v.x, v.y);
  }
};

// The unit of what is sent and added up: two heads, `head` and kOther further, of 32 dims. Eight
// threads hold it, in lanes as they lie in a letter, each four dims of both heads: a word a dim.
struct Bundle {
  static constexpr int kDims = 32, kOfPair = kLatent / kDims;
  static constexpr int kLanes = 8, kWordsOfLane = kDims / kLanes;
  static constexpr int kWords = kLanes * kWordsOfLane;
  static constexpr int kStatistic = 4;  // words: maximum and size of both heads
  int index;                            // of a query and group of heads
};

// As 16 or 32 heads are held: dims d, d + 8, d + 64, d + 72.
template <int Heads>
struct NarrowBundle : Bundle {
  static constexpr int kHeads = Heads, kOther = 1;
  // Of slabs of 64 dims 2 `slabs` and 2 `slabs` + 1, as `warp` holds it.
  static __device__ __forceinline__ NarrowBundle of(int pair, int slabs, int warp) {
    return {{pair * kOfPair + slabs * 4 + warp}};
  }
  __device__ __forceinline__ int head() const { return index / kOfPair * 2; }
  // Where a lane's word lies among the 32 dims, and which dim that is.
  static __device__ __forceinline__ int position(int lane, int word) { return 8 * word + lane; }
  __device__ __forceinline__ int dim(int position) const {
    return index % kOfPair / 4 * 128 + index % 4 * 16 + position / 16 * 64 + position % 16;
  }
};

// Two F16 as a word that is not zero: one of 2^32 pairs becomes another that is as good as it.
constexpr uint32_t kSeal = 0x00010001;
__device__ __forceinline__ uint32_t seal_pair(float low, float high) {
  return max(pack_f16(low, high) ^ kSeal, 1u);
}
__device__ __forceinline__ float2 open_pair(uint32_t word) {
  return unpack_f16(word ^ kSeal);
}

}  // namespace fathom::ops::mla
