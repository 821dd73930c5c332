// A tile that several CTAs of a row tile_sm90 share (tile_plan.h): who goes on with it leaves its
// sums in memory, who began it adds them.
#pragma once

#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/gemm/tile_plan.h"

namespace fathom::ops {

// By one of Groups warpgroups of a CTA, which meets at named barrier `barrier`; a thread has
// Rows x Count sums.
template <int Groups, int Rows, int Count, class Sum = float>
struct TileSharing {
  using Sums = Sum[Rows][Count];

  const TilePlan& plan;
  Sum* partial;        // [plan.ctas][Groups][Rows x Count][128]
  uint32_t* arrivals;  // a word a CTA and warpgroup, zero before and after: its sums are there
  int group, barrier;
  bool live = true;                        // false: this thread's sums are of no token
  int cta = static_cast<int>(blockIdx.x);  // as the plan counts them

  __device__ Sum* sums_of(int of) const {
    return partial + (static_cast<int64_t>(of) * Groups + group) * Rows * Count * 128 +
           threadIdx.x % 128;
  }

  // To the CTA that began the tile.
  __device__ void give(const Sums& sum) const {
    Sum* part = sums_of(cta);
#pragma unroll
    for (int r = 0; r < Rows && live; ++r) {
#pragma unroll
      for (int i = 0; i < Count; ++i) __stcg(part + (r * Count + i) * 128, sum[r][i]);
    }
    device::named_barrier(barrier, 128);
    if (threadIdx.x % 128 == 0) device::release_counter(arrivals + cta * Groups + group);
  }

  // Those that went on with `tile` did it first of all, in the order of their blocks.
  __device__ void add(int tile, Sums& sum) const {
    for (int other = cta + 1; other <= plan.last_sharer(tile); ++other) {
      uint32_t* arrived = arrivals + other * Groups + group;
      if (threadIdx.x % 128 == 0) {
        while (device::acquire_counter(arrived) == 0) {
        }
        *arrived = 0;
      }
      device::named_barrier(barrier, 128);
      const Sum* part = sums_of(other);
#pragma unroll
      for (int r = 0; r < Rows && live; ++r) {
#pragma unroll
        for (int i = 0; i < Count; ++i) sum[r][i] += __ldcg(part + (r * Count + i) * 128);
      }
    }
  }
};

}  // namespace fathom::ops
