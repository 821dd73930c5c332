// fp8_block_gemm, row cuda_plain: a thread per output, sums in float. Takes every shape and layout;
// on a GPU it is also what large cases are compared with.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/fp8.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/fp8_block_gemm_rows.h"
#include "fathom/ops/gemm/weight_tiles.h"

namespace fathom::ops {
namespace {

struct Arguments {
  const uint8_t* x;
  const float* x_scale;
  const uint8_t* w;
  const float* w_scale;
  void* y;
  int64_t M, N, K, x_stride, y_stride, x_scale_stride, w_stride, w_scale_stride;
  bool tiled, wide;
};

__device__ float dot16(uint4 a, uint4 b) {
  const uint32_t p[4] = {a.x, a.y, a.z, a.w}, q[4] = {b.x, b.y, b.z, b.w};
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 u = device::unpack_e4m3(static_cast<uint16_t>(p[i] >> (16 * half)));
      const float2 v = device::unpack_e4m3(static_cast<uint16_t>(q[i] >> (16 * half)));
      sum = fmaf(u.x, v.x, fmaf(u.y, v.y, sum));
    }
  }
  return sum;
}

__global__ void __launch_bounds__(256) gemm_plain(const Arguments a) {
  device::wait_for_predecessor();
  const int64_t n = int64_t{blockIdx.x} * 256 + threadIdx.x;
  const int64_t m = blockIdx.y;
  if (n >= a.N) return;
  float sum = 0;
  for (int64_t block = 0; block < a.K / 128; ++block) {
    float dot = 0;
    for (int64_t k = block * 128; k < block * 128 + 128; k += 16) {
      const uint8_t* w = a.w + (a.tiled ? tile_offset(n, k, a.K) : n * a.w_stride + k);
      dot += dot16(
          *reinterpret_cast<const uint4*>(a.x + m * a.x_stride + k),
          *reinterpret_cast<const uint4*>(w)
      );
    }
    const float scale =
        a.x_scale[block * a.x_scale_stride + m] * a.w_scale[n / 128 * a.w_scale_stride + block];
    sum = fmaf(scale, dot, sum);
  }
  if (a.wide) {
    static_cast<float*>(a.y)[m * a.y_stride + n] = sum;
  } else {
    static_cast<__nv_bfloat16*>(a.y)[m * a.y_stride + n] = __float2bfloat16_rn(sum);
  }
}

}  // namespace

void fp8_block_gemm_cuda_plain(Exec& exec, const Fp8BlockGemm& args) {
  const Arguments a{
      .x = args.x.as<uint8_t>(),
      .x_scale = args.x_scale.as<float>(),
      .w = args.w.data.as<uint8_t>(),
      .w_scale = args.w.scale.as<float>(),
      .y = args.y.data,
      .M = args.x.dim(0),
      .N = args.y.dim(1),
      .K = args.x.dim(1),
      .x_stride = args.x.stride(0),
      .y_stride = args.y.stride(0),
      .x_scale_stride = args.x_scale.stride(0),
      .w_stride = args.w.data.stride(0),
      .w_scale_stride = args.w.scale.stride(0),
      .tiled = args.w.data.dtype == DType::f8e4m3x64,
      .wide = args.y.dtype == DType::f32,
  };
  const dim3 grid(static_cast<unsigned>((a.N + 255) / 256), static_cast<unsigned>(a.M));
  cuda::launch(exec, "fp8_block_gemm", {.grid = grid, .threads = 256}, gemm_plain, a);
}

}  // namespace fathom::ops
