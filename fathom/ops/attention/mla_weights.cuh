// mla_decode: what parts' sums of a query count for, worked out by the threads that add them up:
// each for parts of its own, relative to the largest of those, then all together.
#pragma once

#include "fathom/ops/attention/mla_fragments.cuh"
#include "fathom/ops/device/ptx.cuh"

namespace fathom::ops::mla {

// The binary logarithm of what a part's keys count for.
__device__ __forceinline__ float size_of(float2 statistics) {
  return statistics.x + __log2f(statistics.y);
}

// Of some parts and two heads: the largest size, all totals relative to it.
struct Sizes {
  float2 largest, total;
};

// What `own` are to be multiplied by to be relative to `largest`.
__device__ __forceinline__ float2 under(float2 largest, float2 own) {
  return {
      device::exp2_approx(own.x - (largest.x == -INFINITY ? 0.0f : largest.x)),
      device::exp2_approx(own.y - (largest.y == -INFINITY ? 0.0f : largest.y))};
}

// of[k]: two heads' maximum and total of a part each become the parts' weights (x and z). Those
// beyond `parts`, which repeat one before, get none.
template <int Parts>
__device__ __forceinline__ Sizes weigh_parts(float4 (&of)[Parts], int parts) {
  float2 largest{-INFINITY, -INFINITY}, total{};
#pragma unroll
  for (int k = 0; k < Parts; ++k) {
    largest.x = fmaxf(largest.x, size_of({of[k].x, of[k].y}));
    largest.y = fmaxf(largest.y, size_of({of[k].z, of[k].w}));
  }
#pragma unroll
  for (int k = 0; k < Parts; ++k) {
    const float2 weight = under(largest, {of[k].x, of[k].z});
    of[k].x = k < parts ? weight.x : 0.0f;
    of[k].z = k < parts ? weight.y : 0.0f;
    total.x = fmaf(of[k].y, of[k].x, total.x);
    total.y = fmaf(of[k].w, of[k].z, total.y);
  }
  return {largest, total};
}

// Sums (of the two heads in turn) and sizes of a warpgroup's threads `width` apart; into the
// first's. `meet`: all of them.
template <class Scratch, class Meet>
__device__ __forceinline__ void add_weighed(
    Scratch& s, float (&sum)[4], Sizes& sizes, int width, Meet meet
) {
  const auto thread = static_cast<int>(threadIdx.x);
  if (thread >= width) {
    s.sizes[thread] = {sizes.largest.x, sizes.largest.y, sizes.total.x, sizes.total.y};
    s.sum[0][thread] = {sum[0], sum[1], sum[2], sum[3]};
  }
  meet();
  if (thread >= width) return;
  float2 largest = sizes.largest;
#pragma unroll 4
  for (int other = thread + width; other < kWarpgroup; other += width) {
    largest.x = fmaxf(largest.x, s.sizes[other].x);
    largest.y = fmaxf(largest.y, s.sizes[other].y);
  }
  const float2 own = under(largest, sizes.largest);
  sizes = {largest, {sizes.total.x * own.x, sizes.total.y * own.y}};
#pragma unroll
  for (int i = 0; i < 4; ++i) sum[i] *= i % 2 == 0 ? own.x : own.y;
#pragma unroll 4
  for (int other = thread + width; other < kWarpgroup; other += width) {
    const float4 of = s.sizes[other], v = s.sum[0][other];
    const float2 weight = under(largest, {of.x, of.y});
    sizes.total.x = fmaf(of.z, weight.x, sizes.total.x);
    sizes.total.y = fmaf(of.w, weight.y, sizes.total.y);
    sum[0] = fmaf(weight.x, v.x, sum[0]);
    sum[1] = fmaf(weight.y, v.y, sum[1]);
    sum[2] = fmaf(weight.x, v.z, sum[2]);
    sum[3] = fmaf(weight.y, v.w, sum[3]);
  }
}

}  // namespace fathom::ops::mla
