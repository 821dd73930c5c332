// What the tile of FP8 products (fp8_tile_sm90.cuh) is given, and its two kinds of scales.
#pragma once

#include <cstdint>

#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/tile_plan.h"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kGroups = 2;  // consumer warpgroups
constexpr int kConsumers = kGroups * 128;
constexpr int kThreads = kConsumers + 128;  // registers move by warpgroups
constexpr int kStore = 1;                   // named barriers: one a warpgroup

enum class Fp8Scales : uint8_t { blocks, channels };

struct Arguments {
  const uint8_t* w;
  const float* w_scale;
  const float* x_scale;
  const void* bias;  // null: none
  void* y;
  float* partial;  // TileSharing
  uint32_t* arrivals;
  int64_t y_stride;
  int M, N;
  int x_scale_columns;
  bool boxes, wide, wide_bias;  // y leaves as boxes of bf16; is float; so is the bias
  TilePlan plan;
};

// A thread's place: of warpgroup `group`, rows `row` and `row + 8` of each half.
template <int Halves>
struct Place {
  int group, row, t;
  __device__ Place()
      : group(__shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0)),
        row(static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4),
        t(static_cast<int>(threadIdx.x) % 4) {}
  __device__ int first_token() const { return group * Halves * 64; }
};

// Scales of kQuad blocks, those of a thread's two rows of each half of 64 tokens with the tile's
// weights': a row's four lanes have a block each.
constexpr int kQuad = 4;
template <int Halves>
struct QuadScales {
  float x[Halves][2], w;

  __device__ void multiply() {
#pragma unroll
    for (int i = 0; i < 2 * Halves; ++i) x[i / 2][i % 2] *= w;
  }
};

// Where they lie. They come up to eight blocks ahead: beside the ring's copies a load takes longer
// than a block.
template <int Halves>
struct ScaleRows {
  const float *w, *x;
  uint32_t offset[Halves][2];  // bytes from a block's first scale of x
  int columns, last, t;

  // token: of this thread's first row; may lie beyond the last one.
  __device__ ScaleRows(const Arguments& a, const TilePiece& p, int token, int t)
      : w(a.w_scale + int64_t{a.plan.column(p.tile) / 128} * a.plan.blocks),
        x(a.x_scale),
        columns(a.x_scale_columns),
        last(p.last - 1),
        t(t) {
#pragma unroll
    for (int h = 0; h < Halves; ++h) {
#pragma unroll
      for (int r = 0; r < 2; ++r)
        offset[h][r] = 4 * static_cast<uint32_t>(min(token + 64 * h + 8 * r, columns - 1));
    }
  }

  // Of the blocks from `block`.
  __device__ void fetch(QuadScales<Halves>& to, int block) const {
    block = min(block + t, last);  // what comes after the piece is not used
    to.w = __ldg(w + block);
    const auto* row = reinterpret_cast<const char*>(x + int64_t{block} * columns);
#pragma unroll
    for (int h = 0; h < Halves; ++h) {
#pragma unroll
      for (int r = 0; r < 2; ++r) to.x[h][r] = *reinterpret_cast<const float*>(row + offset[h][r]);
    }
  }
};

__device__ __forceinline__ float bias_of(const Arguments& a, int n) {
  if (a.bias == nullptr) return 0.0f;
  return a.wide_bias ? __ldg(static_cast<const float*>(a.bias) + n)
                     : Vec<__nv_bfloat16>::load(static_cast<const __nv_bfloat16*>(a.bias) + n);
}

// Of channels: a token's scale, then a channel's; the bias.
template <int Halves, int Sums>
__device__ __forceinline__ void scale_channels(
    const Arguments& a,
    const TilePiece& p,
    int first_token,
    const Place<Halves>& place,
    float (&sum)[Halves][Sums]
) {
  const int column = a.plan.column(p.tile) + 2 * place.t;
  const int first = first_token + place.first_token() + place.row;
  float of_token[Halves][2];
#pragma unroll
  for (int h = 0; h < Halves; ++h) {
#pragma unroll
    for (int r = 0; r < 2; ++r)
      of_token[h][r] = __ldcg(a.x_scale + min(first + 64 * h + 8 * r, a.M - 1));
  }
#pragma unroll
  for (int i = 0; i < Sums; ++i) {
    if (i % 4 > 1) continue;
    const int n = min(column + i / 4 * 8 + i % 2, a.N - 1);
    const float of_channel = __ldg(a.w_scale + n), behind = bias_of(a, n);
#pragma unroll
    for (int h = 0; h < Halves; ++h) {
      sum[h][i] = fmaf(sum[h][i] * of_token[h][0], of_channel, behind);
      sum[h][i + 2] = fmaf(sum[h][i + 2] * of_token[h][1], of_channel, behind);
    }
  }
}

}  // namespace
}  // namespace fathom::ops
