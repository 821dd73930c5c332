// head_gemm, row cuda_plain: a thread per output. Takes every plain float type.
#include <cuda_fp16.h>

#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/head_gemm_rows.h"

namespace fathom::ops {
namespace {

constexpr int kThreads = 128;

struct Arguments {
  const void *x, *w;
  void* y;
  int64_t x_token, x_head, y_token, y_head;
  DType x_type, w_type, y_type;
  int N, K;
};

__device__ __forceinline__ float load(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(data)[i];
  if (dtype == DType::f16) return __half2float(static_cast<const __half*>(data)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
}

__global__ void __launch_bounds__(kThreads) multiply(const Arguments a) {
  device::wait_for_predecessor();
  const int n = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (n >= a.N) return;
  const int64_t head = blockIdx.y, token = blockIdx.z;
  float sum = 0;
  for (int k = 0; k < a.K; ++k) {
    const float x = load(a.x, a.x_type, token * a.x_token + head * a.x_head + k);
    sum = fmaf(x, load(a.w, a.w_type, (head * a.N + n) * a.K + k), sum);
  }
  const int64_t at = token * a.y_token + head * a.y_head + n;
  if (a.y_type == DType::f32) {
    static_cast<float*>(a.y)[at] = sum;
  } else {
    static_cast<__nv_bfloat16*>(a.y)[at] = __float2bfloat16_rn(sum);
  }
}

}  // namespace

bool head_gemm_takes_cuda_plain(const Exec&, const HeadGemm& args) {
  const DType w = args.weight.dtype;
  constexpr int64_t kMostTokens = 65535;  // of a grid's z
  return (w == DType::f32 || w == DType::f16 || w == DType::bf16) && args.x.dim(0) <= kMostTokens;
}

void head_gemm_cuda_plain(Exec& exec, const HeadGemm& args) {
  const Arguments a{
      .x = args.x.data,
      .w = args.weight.data,
      .y = args.y.data,
      .x_token = args.x.stride(0),
      .x_head = args.x.stride(1),
      .y_token = args.y.stride(0),
      .y_head = args.y.stride(1),
      .x_type = args.x.dtype,
      .w_type = args.weight.dtype,
      .y_type = args.y.dtype,
      .N = static_cast<int>(args.y.dim(2)),
      .K = static_cast<int>(args.x.dim(2)),
  };
  const dim3 grid(
      static_cast<unsigned>((a.N + kThreads - 1) / kThreads),
      static_cast<unsigned>(args.x.dim(1)),
      static_cast<unsigned>(args.x.dim(0))
  );
  cuda::launch(exec, "head_gemm", {.grid = grid, .threads = kThreads}, multiply, a);
}

}  // namespace fathom::ops
