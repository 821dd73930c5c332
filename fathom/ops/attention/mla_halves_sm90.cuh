// mla_decode, row sm90: FP8 rows multiplied as F16.
//
// A row of the cache becomes F16 in a unit of its own, the power of two that makes its largest 2^14
// to 2^15, and so does a head's query: what is 2^28 times smaller than the largest still has F16's
// eleven bits, and nothing overflows. A score is the product times both units. A probability would
// count unit times for the values; instead the softmax runs on the score plus the binary logarithm
// of the unit, so that it, too, fits F16, and the total adds up probabilities over units.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "fathom/ops/attention/mla_ring_sm90.cuh"
#include "fathom/ops/device/mma_half_sm90.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/mma_transposed_sm90.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops::mla {

// Eight bf16: the largest magnitudes of even and odd ones, beside `largest`.
__device__ __forceinline__ __nv_bfloat162 largest_of(__nv_bfloat162 largest, const uint4& v) {
  const auto* pair = reinterpret_cast<const __nv_bfloat162*>(&v);
#pragma unroll
  for (int i = 0; i < 4; ++i) largest = __hmax2(largest, __habs2(pair[i]));
  return largest;
}
// The largest of Lanes neighbours.
template <int Lanes>
__device__ __forceinline__ float largest_of_lanes(__nv_bfloat162 pair) {
  float largest = fmaxf(__low2float(pair), __high2float(pair));
#pragma unroll
  for (int d = 1; d < Lanes; d *= 2)
    largest = fmaxf(largest, __shfl_xor_sync(device::kFullWarp, largest, d));
  return largest;
}

// Eight bf16 times a power of two, as F16.
__device__ __forceinline__ uint4 halves_of(const uint4& v, float factor) {
  const auto pair = [&](uint32_t word) {
    return pack_f16(device::low_bf16(word) * factor, device::high_bf16(word) * factor);
  };
  return {pair(v.x), pair(v.y), pair(v.z), pair(v.w)};
}

// The queries, in place, by all consumers; s.query_unit becomes their units times `scale`.
template <int Heads, class Together>
__device__ void halve_queries(SharedStorage<Heads>& s, float scale) {
  constexpr int kLanes = SharedStorage<Heads>::kConsumers / Heads, kChunks = 8 / kLanes;
  const int head = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const auto chunk = [&](int panel, int i) -> uint4& {
    return *reinterpret_cast<uint4*>(s.q[panel] + head * 128 + (lane + i * kLanes) * 16);
  };
  __nv_bfloat162 pair = __float2bfloat162_rn(0.0f);
#pragma unroll
  for (int panel = 0; panel < kPanels; ++panel) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) pair = largest_of(pair, chunk(panel, i));
  }
  const float unit = unit_of(largest_of_lanes<kLanes>(pair)), inverse = inverse_of(unit);
  if (lane == 0) s.query_unit[head] = unit * scale;
#pragma unroll 3
  for (int panel = 0; panel < kPanels; ++panel) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) chunk(panel, i) = halves_of(chunk(panel, i), inverse);
  }
  device::fence_shared_for_async();
  Together::meet();
}

// Products of BF16, or of F16 where rows are codes.
template <bool Codes, int N>
__device__ __forceinline__ void multiply(float (&d)[N], uint64_t a, uint64_t b, bool accumulate) {
  if constexpr (Codes) {
    device::mma_f16(d, a, b, accumulate);
  } else {
    device::mma_bf16(d, a, b, accumulate);
  }
}
template <bool Codes, int N>
__device__ __forceinline__ void multiply_transposed(float (&d)[N], uint64_t a, uint64_t b) {
  if constexpr (Codes) {
    device::mma_f16_transposed(d, a, b);
  } else {
    device::mma_bf16_transposed(d, a, b);
  }
}
template <bool Codes>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  return Codes ? pack_f16(low, high) : device::pack_bf16(low, high);
}

// FP8 rows are written by the producers' threads, which arrive at the two panels of 128 dims at
// once: before panel `panel` waits for it and, if it is the first of two, for the next.
template <bool Codes, int Ring>
__device__ __forceinline__ void wait_for_panel(
    Barrier (&full)[Ring], const Place<Ring>& place, int panel
) {
  if (Codes && panel > 0 && panel % 2 == 0) return;
  full[place.slot_of(panel)].wait(place.pass_of(panel));
  if constexpr (!Codes) return;
  if (panel > 0) full[place.slot_of(panel + 1)].wait(place.pass_of(panel + 1));
  device::fence_shared_for_async();
}

}  // namespace fathom::ops::mla
