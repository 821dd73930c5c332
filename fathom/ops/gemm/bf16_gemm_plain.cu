// bf16_gemm, row cuda_plain: plain float types of every kind, tiles of 64 x 64 in shared memory,
// float FMA. Correct, and slow.
#include <cuda_fp16.h>

#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/bf16_gemm_rows.h"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kTile = 64;
constexpr int kDepth = 16;     // of K at a time
constexpr int kThreads = 256;  // 16 x 16, 4 x 4 outputs each

struct Arguments {
  const void* x;
  const void* weight;
  const void* bias;  // null: none
  void* y;
  int64_t x_stride, w_stride, y_stride;
  DType x_type, w_type, bias_type, y_type;
  int M, N, K;
};

__device__ __forceinline__ float load(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(data)[i];
  if (dtype == DType::f16) return __half2float(static_cast<const __half*>(data)[i]);
  return Vec<__nv_bfloat16>::load(static_cast<const __nv_bfloat16*>(data) + i);
}

__global__ void __launch_bounds__(kThreads) multiply(const Arguments a) {
  __shared__ float x[kDepth][kTile + 1], w[kDepth][kTile + 1];
  device::launch_successor();
  device::wait_for_predecessor();
  const int thread = static_cast<int>(threadIdx.x);
  const int first_m = static_cast<int>(blockIdx.x) * kTile;
  const int first_n = static_cast<int>(blockIdx.y) * kTile;
  const int row = thread / 16 * 4, column = thread % 16 * 4;
  float sum[4][4] = {};
  for (int k0 = 0; k0 < a.K; k0 += kDepth) {
    for (int i = thread; i < kTile * kDepth; i += kThreads) {
      const int r = i / kDepth, k = k0 + i % kDepth;
      const bool inside = k < a.K;
      x[i % kDepth][r] =
          inside && first_m + r < a.M ? load(a.x, a.x_type, (first_m + r) * a.x_stride + k) : 0.0f;
      w[i % kDepth][r] = inside && first_n + r < a.N
                             ? load(a.weight, a.w_type, (first_n + r) * a.w_stride + k)
                             : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] += x[k][row + i] * w[k][column + j];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int m = first_m + row + i, n = first_n + column + j;
      if (m >= a.M || n >= a.N) continue;
      const float v = sum[i][j] + (a.bias == nullptr ? 0.0f : load(a.bias, a.bias_type, n));
      if (a.y_type == DType::f32) {
        static_cast<float*>(a.y)[m * a.y_stride + n] = v;
      } else {
        Vec<__nv_bfloat16>::store(static_cast<__nv_bfloat16*>(a.y) + m * a.y_stride + n, v);
      }
    }
  }
}

}  // namespace

bool bf16_gemm_takes_cuda_plain(const Exec&, const Bf16Gemm& args) {
  const DType w = args.weight.dtype;
  return w == DType::bf16 || w == DType::f16 || w == DType::f32;
}

void bf16_gemm_cuda_plain(Exec& exec, const Bf16Gemm& args) {
  const Arguments a{
      .x = args.x.data,
      .weight = args.weight.data,
      .bias = args.bias.defined() ? args.bias.data : nullptr,
      .y = args.y.data,
      .x_stride = args.x.stride(0),
      .w_stride = args.weight.stride(0),
      .y_stride = args.y.stride(0),
      .x_type = args.x.dtype,
      .w_type = args.weight.dtype,
      .bias_type = args.bias.dtype,
      .y_type = args.y.dtype,
      .M = static_cast<int>(args.x.dim(0)),
      .N = static_cast<int>(args.y.dim(1)),
      .K = static_cast<int>(args.x.dim(1)),
  };
  const dim3 grid(
      static_cast<unsigned>((a.M + kTile - 1) / kTile),
      static_cast<unsigned>((a.N + kTile - 1) / kTile)
  );
  cuda::launch(exec, "bf16_gemm", {.grid = grid, .threads = kThreads}, multiply, a);
}

}  // namespace fathom::ops
