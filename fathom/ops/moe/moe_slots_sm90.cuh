// Products of grouped_moe's slots on their way to the sum: [slices][2 halves][rows][kHalf], BF16, a
// half of each warpgroup, so that an item's rows are one run of bytes.
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops {

struct MoeSlots {
  static constexpr int kSlice = 256;  // outputs
  static constexpr int kHalf = 128;   // of a warpgroup

  __nv_bfloat16* data;
  int64_t rows;  // T * k

  // A row's chunk of eight outputs lies where neighbouring rows' chunks do not share banks.
  __device__ static int swizzled(int chunk, int row) { return chunk ^ (row & 7); }

  __device__ __nv_bfloat16* half_of(int slice, int half) const {
    return data + (int64_t{slice} * 2 + half) * rows * kHalf;
  }

  // Adds a token's slots up, in ascending order, by one warp: 8 outputs a lane, of C. Lane i has
  // the row of the token's slot i of k, -1: none.
  __device__ void add_up(float (&sum)[8], int slice, int row, int k, int C) const {
    constexpr int kTogether = 8;  // slots on their way
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const bool inside = slice * kSlice + lane * 8 < C;
    const __nv_bfloat16* from = half_of(slice, lane / 16);
    for (int first = 0; first < k; first += kTogether) {
      uint4 part[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int at = __shfl_sync(device::kFullWarp, row, (first + j) % 32);
        const __nv_bfloat16* chunk = from + int64_t{at} * kHalf + swizzled(lane % 16, at) * 8;
        part[j] = inside && first + j < k && at >= 0 ? __ldcg(reinterpret_cast<const uint4*>(chunk))
                                                     : uint4{0, 0, 0, 0};
      }
#pragma unroll
      for (int j = 0; j < kTogether; ++j) add(sum, part[j]);
    }
  }

  __device__ static void add(float (&sum)[8], uint4 part) {
    float v[8];
    device::Vec<__nv_bfloat16>::unpack(part, v);
#pragma unroll
    for (int e = 0; e < 8; ++e) sum[e] += v[e];
  }
};

}  // namespace fathom::ops
