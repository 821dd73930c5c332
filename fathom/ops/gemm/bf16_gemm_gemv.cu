// bf16_gemm, row gemv: one token, the time is the weights' way from DRAM.
// docs/kernels/bf16_gemm.md.
//
// A warp takes 2048 k of a row of weights at a time: its lanes hold them in registers, those of its
// first row before the predecessor has ended, and its 2048 k of x, read once. The warps of a CTA
// take all of K of one or more rows and add up in the order of k.
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/bf16_gemm_rows.h"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kMaxWarps = 8;
constexpr int kVectors = 8;  // 16 bytes each, of a lane
constexpr int kPiece = kVectors * 32 * 8;
constexpr int kResident = 2;  // CTAs of a multiprocessor

struct Arguments {
  const __nv_bfloat16 *x, *w;
  const void* bias;
  void* y;
  int64_t w_stride;
  int N, K;
  int pieces, rows;  // of a CTA at a time; pieces x rows warps
  bool wide_y, wide_bias;
};

__device__ __forceinline__ float dot(uint4 a, uint4 b, float sum) {
  float u[8], v[8];
  Vec<__nv_bfloat16>::unpack(a, u);
  Vec<__nv_bfloat16>::unpack(b, v);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(u[i], v[i], sum);
  return sum;
}

__device__ __forceinline__ void store(const Arguments& a, int n, float v) {
  if (a.bias != nullptr) {
    v += a.wide_bias ? __ldg(static_cast<const float*>(a.bias) + n)
                     : __bfloat162float(static_cast<const __nv_bfloat16*>(a.bias)[n]);
  }
  if (a.wide_y) {
    static_cast<float*>(a.y)[n] = v;
  } else {
    static_cast<__nv_bfloat16*>(a.y)[n] = __float2bfloat16_rn(v);
  }
}

__global__ void __launch_bounds__(kMaxWarps * 32, kResident) multiply(const Arguments a) {
  __shared__ float part[2][kMaxWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int piece = warp % a.pieces, row = warp / a.pieces;
  const int first_k = piece * kPiece + lane * 8;
  const int vectors = (a.K - first_k + 255) / 256;  // that exist
  uint4 w[kVectors], x[kVectors];
  const auto load = [&](int n) {
    const __nv_bfloat16* from = a.w + n * a.w_stride + first_k;
    const int count = n < a.N ? vectors : 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
      w[i] = i < count ? device::load_streaming(from + i * 256) : uint4{0, 0, 0, 0};
  };
  const int step = static_cast<int>(gridDim.x) * a.rows;
  int n = static_cast<int>(blockIdx.x) * a.rows + row;
  load(n);
  device::launch_successor();
  device::wait_for_predecessor();
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    x[i] = i < vectors ? __ldcg(reinterpret_cast<const uint4*>(a.x + first_k + i * 256))
                       : uint4{0, 0, 0, 0};
  }
  // All warps of a CTA take as many turns: they meet.
  int turn = 0;
  for (int first = n - row; first < a.N; first += step, n += step, turn ^= 1) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) sum = dot(w[i], x[i], sum);
    load(n + step);
    const float total = device::warp_sum(sum);
    if (a.pieces == 1) {
      if (lane == 0 && n < a.N) store(a, n, total);
      continue;
    }
    if (lane == 0) part[turn][warp] = total;
    __syncthreads();
    if (piece > 0 || lane > 0 || n >= a.N) continue;
    float all = 0;
    for (int p = 0; p < a.pieces; ++p) all += part[turn][warp + p];
    store(a, n, all);
  }
}

}  // namespace

bool bf16_gemm_takes_gemv(const Exec&, const Bf16Gemm& args) {
  const auto aligned = [](const Tensor& t) {
    return t.dtype == DType::bf16 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  };
  const int64_t K = args.x.dim(1);
  return args.x.dim(0) == 1 && aligned(args.x) && aligned(args.weight) && K % 8 == 0 &&
         K <= kMaxWarps * kPiece && args.weight.stride(0) % 8 == 0;
}

void bf16_gemm_gemv(Exec& exec, const Bf16Gemm& args) {
  const int64_t K = args.x.dim(1), N = args.y.dim(1);
  const int pieces = static_cast<int>((K + kPiece - 1) / kPiece), rows = kMaxWarps / pieces;
  const Arguments a{
      .x = static_cast<const __nv_bfloat16*>(args.x.data),
      .w = static_cast<const __nv_bfloat16*>(args.weight.data),
      .bias = args.bias.defined() ? args.bias.data : nullptr,
      .y = args.y.data,
      .w_stride = args.weight.stride(0),
      .N = static_cast<int>(N),
      .K = static_cast<int>(K),
      .pieces = pieces,
      .rows = rows,
      .wide_y = args.y.dtype == DType::f32,
      .wide_bias = args.bias.defined() && args.bias.dtype == DType::f32,
  };
  const int64_t ctas = std::min<int64_t>(
      (N + rows - 1) / rows, int64_t{kResident} * cuda::multiprocessors(exec.device.index)
  );
  cuda::launch(
      exec,
      "bf16_gemm",
      {.grid = dim3(static_cast<unsigned>(ctas)), .threads = pieces * rows * 32},
      multiply,
      a
  );
}

}  // namespace fathom::ops
