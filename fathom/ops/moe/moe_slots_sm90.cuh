// Products of grouped_moe's slots on their way to the sum: [slices][2 halves][rows][kHalf], BF16, a
// half of each warpgroup, so that an item's rows are one run of bytes; and that sum.
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/device/ptx.cuh"
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

// The sum over slots: some tokens of a slice are a part, which a warp takes when all products of
// the slice are stored.
struct MoeSlotSums {
  MoeSlots slots;
  const int* row;               // MoeRoutes
  const __nv_bfloat16* addend;  // null: none
  __nv_bfloat16* y;
  int64_t addend_stride, y_stride;
  uint32_t* stored;   // [slices] warpgroups that have stored a piece of the slice
  uint32_t* claimed;  // [1] parts
  uint32_t* ended;    // [1] warps that have found no part left
  int T, k, C, slices;
  int part_tokens, parts;  // of a slice

  // By one of `warps` warps: takes parts until none is left. `reports`: of a slice, when complete.
  __device__ void sum_parts(int reports, int warps) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const auto claim = [&] { return lane == 0 ? atomicAdd(claimed, 1u) : 0u; };
    uint32_t next = claim();
    for (;;) {
      const int part = static_cast<int>(__shfl_sync(device::kFullWarp, next, 0));
      if (part >= parts * slices) break;
      next = claim();
      const int slice = part / parts, first = (part - slice * parts) * part_tokens;
      const int end = min(first + part_tokens, T);
      int own = row_of(first, lane);
      wait_for_slice(slice, reports, lane);
      for (int token = first; token < end; ++token) {
        const int after = row_of(token + 1, lane);
        sum_token(token, own, slice, lane);
        own = after;
      }
    }
    if (lane == 0) leave(warps);
  }

 private:
  __device__ int row_of(int token, int lane) const {
    return token < T && lane < k ? __ldcg(row + token * k + lane) : -1;
  }

  __device__ void wait_for_slice(int slice, int reports, int lane) const {
    if (lane == 0) {
      while (device::acquire_counter(stored + slice) < static_cast<uint32_t>(reports))
        __nanosleep(100);
    }
    __syncwarp();
  }

  // 8 outputs a lane of one token; `own`: the row of its slot `lane`.
  __device__ void sum_token(int token, int own, int slice, int lane) const {
    float sum[8] = {};
    slots.add_up(sum, slice, own, k, C);
    const int64_t output = int64_t{slice} * MoeSlots::kSlice + lane * 8;
    if (output >= C) return;
    if (addend != nullptr) {
      const __nv_bfloat16* more = addend + token * addend_stride + output;
      MoeSlots::add(sum, __ldcg(reinterpret_cast<const uint4*>(more)));
    }
    *reinterpret_cast<uint4*>(y + token * y_stride + output) =
        device::Vec<__nv_bfloat16>::pack(sum);
  }

  // The last warp to leave zeroes the counters: nobody waits for them any more.
  __device__ void leave(int warps) const {
    if (device::arrive_counter(ended) + 1 != static_cast<uint32_t>(warps)) return;
    for (int slice = 0; slice < slices; ++slice) stored[slice] = 0;
    *claimed = *ended = 0;
  }
};

}  // namespace fathom::ops
