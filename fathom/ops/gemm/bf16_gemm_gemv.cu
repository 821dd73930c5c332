// bf16_gemm, row gemv: one token, the time is the weights' way from DRAM.
// docs/kernels/bf16_gemm.md.
//
// A warp takes 2048 k of a row of weights at a time: its lanes hold them in registers, those of its
// first row before the predecessor has ended, and its 2048 k of x, read once. The warps of a CTA
// take all of K of a group of one or more rows and add up in the order of k. Of a long matrix two
// groups of each CTA are dealt, the others claimed (row_claims.cuh).
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/bf16_gemm_rows.h"
#include "fathom/ops/gemm/row_claims.cuh"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kMaxWarps = 8;
constexpr int kVectors = 8;  // 16 bytes each, of a lane
constexpr int kPiece = kVectors * 32 * 8;
constexpr int kResident = 2;  // CTAs of a multiprocessor
constexpr int kDealt = 2;     // groups of a CTA
constexpr int kLong = 8;      // groups of a CTA from which on they are claimed

struct Arguments {
  const __nv_bfloat16 *x, *w;
  const void* bias;
  void* y;
  int64_t w_stride;
  uint32_t* claims;  // zero
  int N, K;
  int pieces, rows;  // of a CTA at a time; pieces x rows warps
  int groups;        // of `rows` rows
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

// Claimed: of a long matrix. A short one ends sooner by equal shares.
template <bool Claimed>
__global__ void __launch_bounds__(kMaxWarps * 32, kResident) multiply(const Arguments a) {
  __shared__ float part[2][kMaxWarps];
  __shared__ int claimed[2];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int piece = warp % a.pieces, row = warp / a.pieces;
  const int first_k = piece * kPiece + lane * 8;
  const int vectors = (a.K - first_k + 255) / 256;  // that exist
  uint4 w[kVectors], x[kVectors];
  const auto load = [&](int group) {
    const int n = group * a.rows + row;
    const __nv_bfloat16* from = a.w + n * a.w_stride + first_k;
    const int count = n < a.N ? vectors : 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
      w[i] = i < count ? device::load_streaming(from + i * 256) : uint4{0, 0, 0, 0};
  };
  int group = static_cast<int>(blockIdx.x), next = group + static_cast<int>(gridDim.x);
  load(group);
  device::launch_successor();
  device::wait_for_predecessor();
  RowClaims claims(a.groups, Claimed ? kDealt : a.groups, static_cast<int>(gridDim.x));
  if (Claimed && threadIdx.x == 0) claims.ask(a.claims);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    x[i] = i < vectors ? __ldcg(reinterpret_cast<const uint4*>(a.x + first_k + i * 256))
                       : uint4{0, 0, 0, 0};
  }
  // All warps of a CTA take as many turns: they meet.
  for (int turn = 0; group < a.groups; turn ^= 1) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) sum = dot(w[i], x[i], sum);
    load(next);
    sum = device::warp_sum(sum);
    const int n = group * a.rows + row;
    group = next;
    if (!Claimed) next += static_cast<int>(gridDim.x);
    if (!Claimed && a.pieces == 1) {
      if (lane == 0 && n < a.N) store(a, n, sum);
      continue;
    }
    if (lane == 0) part[turn][warp] = sum;
    if (Claimed && threadIdx.x == 0) {
      claimed[turn] = claims.take(a.claims, a.groups);
      claims.ask(a.claims);
    }
    __syncthreads();
    if (Claimed) next = claimed[turn];
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
  const int groups = static_cast<int>((N + rows - 1) / rows);
  const Arguments a{
      .x = static_cast<const __nv_bfloat16*>(args.x.data),
      .w = static_cast<const __nv_bfloat16*>(args.weight.data),
      .bias = args.bias.defined() ? args.bias.data : nullptr,
      .y = args.y.data,
      .w_stride = args.weight.stride(0),
      .claims = exec.semaphores,
      .N = static_cast<int>(N),
      .K = static_cast<int>(K),
      .pieces = pieces,
      .rows = rows,
      .groups = groups,
      .wide_y = args.y.dtype == DType::f32,
      .wide_bias = args.bias.defined() && args.bias.dtype == DType::f32,
  };
  const int ctas = std::min(groups, kResident * cuda::multiprocessors(exec.device.index));
  cuda::launch(
      exec,
      "bf16_gemm",
      {.grid = dim3(static_cast<unsigned>(ctas)), .threads = pieces * rows * 32},
      groups >= kLong * ctas ? multiply<true> : multiply<false>,
      a
  );
}

}  // namespace fathom::ops
