// head_gemm, row mma: bf16, products of 16 tokens x 8 rows by mma.sync.
//
// A CTA holds 64 weight rows of one head in shared memory, on their way before the predecessor has
// ended. At most 16 tokens: its four warps share the rows; more: each warp takes 16 tokens at a
// time and all the rows. Tokens are mma.sync's 16-row operand A, from memory; weights its operand
// B. A lane reads 16 consecutive bytes of a row for both: k is permuted alike in both.
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/async_copy.cuh"
#include "fathom/ops/device/mma_sync.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/head_gemm_rows.h"

namespace fathom::ops {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kRows = 64;  // of W in a CTA
constexpr int kTokens = 16;
constexpr int kStep = 32;  // of K
constexpr int kPad = 32;   // elements: neighbouring rows begin 16 banks apart
constexpr int64_t kMaxK = 1024;

struct Arguments {
  const __nv_bfloat16 *x, *w;
  __nv_bfloat16* y;
  int64_t x_token, x_head, y_token, y_head;
  int T, N, K;
};

struct Product {
  const Arguments& a;
  const __nv_bfloat16* w;  // shared: [kRows][K + kPad]
  int head, first_row, rows;

  __device__ uint4 load(int token, int k) const {
    if (token >= a.T) return {0, 0, 0, 0};
    return __ldcg(reinterpret_cast<const uint4*>(a.x + token * a.x_token + head * a.x_head + k));
  }

  __device__ void store(const float (&sum)[4], int token, int row, int half) const {
    if (token >= a.T || row >= rows) return;
    __nv_bfloat16* y = a.y + token * a.y_token + head * a.y_head + first_row + row;
    *reinterpret_cast<uint32_t*>(y) = device::pack_bf16(sum[2 * half], sum[2 * half + 1]);
  }

  // 16 tokens from `token` on, and Groups groups of 8 rows.
  template <int Groups>
  __device__ void run(int token, int group) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    float sum[Groups][4] = {};
#pragma unroll 4
    for (int k = 8 * t; k < a.K; k += kStep) {
      const uint4 low = load(token + g, k), high = load(token + g + 8, k);
#pragma unroll
      for (int j = 0; j < Groups; ++j) {
        const int row = (group + j) * 8 + g;
        const uint4 b = *reinterpret_cast<const uint4*>(w + row * (a.K + kPad) + k);
        device::mma_bf16_sync(sum[j], low.x, high.x, low.y, high.y, b.x, b.y);
        device::mma_bf16_sync(sum[j], low.z, high.z, low.w, high.w, b.z, b.w);
      }
    }
#pragma unroll
    for (int j = 0; j < Groups; ++j) {
      const int row = (group + j) * 8 + 2 * t;
      store(sum[j], token + g, row, 0);
      store(sum[j], token + g + 8, row, 1);
    }
  }
};

template <bool Few>
__global__ void __launch_bounds__(kThreads) multiply(const Arguments a) {
  extern __shared__ __align__(16) uint8_t memory[];
  auto* w = reinterpret_cast<__nv_bfloat16*>(memory);
  const int head = static_cast<int>(blockIdx.y);
  const int first_row = static_cast<int>(blockIdx.x) * kRows, rows = min(kRows, a.N - first_row);
  const __nv_bfloat16* from = a.w + (int64_t{head} * a.N + first_row) * a.K;
  const int chunks = a.K / 8;
  for (int i = static_cast<int>(threadIdx.x); i < rows * chunks; i += kThreads) {
    const int row = i / chunks, k = i % chunks * 8;
    device::copy_16_async(w + row * (a.K + kPad) + k, from + int64_t{row} * a.K + k);
  }
  device::commit_copies();
  // Rows that do not exist: their sums are not stored, but read.
  for (int i = static_cast<int>(threadIdx.x) + rows * chunks; i < kRows * chunks; i += kThreads) {
    const int row = i / chunks, k = i % chunks * 8;
    *reinterpret_cast<uint4*>(w + row * (a.K + kPad) + k) = {0, 0, 0, 0};
  }
  device::launch_successor();
  device::wait_for_predecessor();
  device::wait_copies<0>();
  __syncthreads();
  const Product product{a, w, head, first_row, rows};
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if constexpr (Few) {
    product.run<kRows / 8 / kWarps>(0, warp * (kRows / 8 / kWarps));
  } else {
    const int step = static_cast<int>(gridDim.z) * kWarps * kTokens;
    for (int token = (static_cast<int>(blockIdx.z) * kWarps + warp) * kTokens; token < a.T;
         token += step)
      product.run<kRows / 8>(token, 0);
  }
}

}  // namespace

bool head_gemm_takes_mma(const Exec&, const HeadGemm& args) {
  const auto aligned = [](const Tensor& t) {
    return t.dtype == DType::bf16 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 &&
           t.stride(0) % 8 == 0 && t.stride(1) % 8 == 0;
  };
  return args.weight.dtype == DType::bf16 &&
         reinterpret_cast<uintptr_t>(args.weight.data) % 16 == 0 && aligned(args.x) &&
         aligned(args.y) && args.y.dim(2) % 8 == 0 && args.x.dim(2) % kStep == 0 &&
         args.x.dim(2) <= kMaxK;
}

void head_gemm_mma(Exec& exec, const HeadGemm& args) {
  const auto* x = static_cast<const __nv_bfloat16*>(args.x.data);
  const Arguments a{
      .x = x,
      .w = static_cast<const __nv_bfloat16*>(args.weight.data),
      .y = static_cast<__nv_bfloat16*>(args.y.data),
      .x_token = args.x.stride(0),
      .x_head = args.x.stride(1),
      .y_token = args.y.stride(0),
      .y_head = args.y.stride(1),
      .T = static_cast<int>(args.x.dim(0)),
      .N = static_cast<int>(args.y.dim(2)),
      .K = static_cast<int>(args.x.dim(2)),
  };
  const bool few = a.T <= kTokens;
  const int tiles = (a.N + kRows - 1) / kRows, heads = static_cast<int>(args.x.dim(1));
  // Enough CTAs for four a multiprocessor, but each with as many tokens as that allows.
  const int most = std::max(1, 4 * cuda::multiprocessors(exec.device.index) / (tiles * heads));
  const int passes = few ? 1 : std::min(most, (a.T + kWarps * kTokens - 1) / (kWarps * kTokens));
  const dim3 grid(
      static_cast<unsigned>(tiles), static_cast<unsigned>(heads), static_cast<unsigned>(passes)
  );
  const cuda::LaunchShape shape{
      .grid = grid, .threads = kThreads, .shared_bytes = kRows * (a.K + kPad) * 2};
  cuda::launch(exec, "head_gemm", shape, few ? multiply<true> : multiply<false>, a);
}

}  // namespace fathom::ops
