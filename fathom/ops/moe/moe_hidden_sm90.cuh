// The end of grouped_moe's first product, row tile_sm90: from the sums of gate and up to h in
// memory.
//
// Two warpgroups hold 128 channels of an item's rows as WGMMA fragments, channels down and rows
// across: thread t of warp w has channels 16 w + t / 4 and 8 further of rows 8 j + 2 (t % 4) and
// the next, in both products alike.
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/moe/moe_products.cuh"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops {

inline constexpr int kHiddenChannels = 128;
inline constexpr int kHiddenThreads = 256;

template <bool Fp8, int Item>
struct HiddenStage {
  static constexpr int kRowBytes = kHiddenChannels * (Fp8 ? 1 : 2);
  float amax[kHiddenThreads / 32][Item];
  alignas(16) float2 scale[Item];  // of a row; its reciprocal
  alignas(16) uint8_t h[Item][kRowBytes + 16];
};

// Where an item's 128 channels go.
struct HiddenPlace {
  uint8_t* h;  // of its first row
  int64_t row_bytes;
  float* scale;  // e4m3: of its rows
  bool ue8m0;
};

// SwiGLU, quantisation or rounding, and rows of 128 channels to memory, of the first Width rows.
// weight_of(row): the routing weight. By all threads; uses named barrier 1.
template <bool Fp8, int Width, int Item>
struct HiddenRows {
  static constexpr int kSums = Width / 2;  // a thread's
  static constexpr float kEps = 1e-10f;
  using Stage = HiddenStage<Fp8, Item>;

  Stage& s;
  const HiddenPlace& to;
  int thread = thread_read_here();  // while products are made no register is left for it
  int lane = thread % 32, warp = thread / 32;
  int channel = warp * 16 + lane / 4, column = lane % 4 * 2;

  __device__ HiddenRows(Stage& stage, const HiddenPlace& place) : s(stage), to(place) {}

  // The rows' sums of both products stand in `gate` and `up` from First on.
  template <int First = 0, int Count, class WeightOf>
  __device__ void finish(const float (&gate)[Count], const float (&up)[Count], WeightOf weight_of) {
    const float weight = Fp8 && thread < Width ? weight_of(thread) : 0.0f;
    float v[kSums];
#pragma unroll
    for (int i = 0; i < kSums; ++i) v[i] = silu(gate[First + i]) * up[First + i];
    if constexpr (Fp8) {
      find_scales(v, weight);
      stage_codes(v);
    } else {
      stage_rounded(v);
    }
    device::named_barrier<1>(kHiddenThreads);
    copy_out();
    // Read: the next rows may be staged. FP8: they are after two more barriers.
    if constexpr (!Fp8) device::named_barrier<1>(kHiddenThreads);
  }

 private:
  // The scales of the rows' quantisation groups by their largest magnitudes, each by one thread,
  // with the row's routing weight to memory: a division is a long chain.
  __device__ void find_scales(const float (&v)[kSums], float weight) {
#pragma unroll
    for (int c = 0; c < Width / 4; ++c) {  // pairs of channels
      const int i = c / 2 * 4 + c % 2;
      float m = fmaxf(fabsf(v[i]), fabsf(v[i + 2]));
#pragma unroll
      for (int d = 4; d < 32; d *= 2) m = fmaxf(m, __shfl_xor_sync(device::kFullWarp, m, d));
      if (lane < 4) s.amax[warp][c / 2 * 8 + column + c % 2] = m;
    }
    device::named_barrier<1>(kHiddenThreads);
    if (thread < Width) {
      float m = kEps;
#pragma unroll
      for (int w = 0; w < kHiddenThreads / 32; ++w) m = fmaxf(m, s.amax[w][thread]);
      const float scale = group_scale(m, to.ue8m0);
      s.scale[thread] = {scale, __frcp_rn(scale)};  // below 1e37: its reciprocal is normal
      to.scale[thread] = scale * weight;
    }
    device::named_barrier<1>(kHiddenThreads);
  }

  __device__ void stage_codes(const float (&v)[kSums]) {
#pragma unroll
    for (int j = 0; j < Width / 8; ++j) {
      const int row = 8 * j + column;
      const float4 of_rows = *reinterpret_cast<const float4*>(&s.scale[row]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float code = i % 2 == 0 ? quotient(v[4 * j + i], of_rows.x, of_rows.y)
                                      : quotient(v[4 * j + i], of_rows.z, of_rows.w);
        s.h[row + i % 2][channel + i / 2 * 8] = static_cast<uint8_t>(device::pack_e4m3(code, 0));
      }
    }
  }

  __device__ void stage_rounded(const float (&v)[kSums]) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      auto* row = reinterpret_cast<__nv_bfloat16*>(s.h[i / 4 * 8 + column + i % 2]);
      row[channel + i / 2 % 2 * 8] = __float2bfloat16_rn(v[i]);
    }
  }

  __device__ void copy_out() const {
    constexpr int kVectors = Stage::kRowBytes / 16, kAll = Width * kVectors;
#pragma unroll
    for (int first = 0; first < kAll; first += kHiddenThreads) {
      const int i = first + thread, row = i / kVectors, at = i % kVectors * 16;
      if (i >= kAll) break;
      *reinterpret_cast<uint4*>(to.h + row * to.row_bytes + at) =
          *reinterpret_cast<const uint4*>(&s.h[row][at]);
    }
  }
};

}  // namespace fathom::ops
