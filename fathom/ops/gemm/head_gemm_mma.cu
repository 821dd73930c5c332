// head_gemm, row mma: bf16, products of 16 tokens x 8 rows by mma.sync. Tokens are its 16-row
// operand A, weights its operand B. A lane reads 16 consecutive bytes of a row for both: k is
// permuted alike in both.
//
// A CTA holds weight rows of one head in shared memory, on their way before the predecessor has
// ended. Tokens come from memory, where at most 16 of them share the rows among four warps, and of
// more each warp takes 16 and all the rows. Few tokens of a long K come to shared memory too, all
// at once: read as they are multiplied they would make several trips to the L2.
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/async_copy.cuh"
#include "fathom/ops/device/mma_sync.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/head_gemm_rows.h"

namespace fathom::ops {
namespace {

constexpr int kTokens = 16;     // of a product
constexpr int kFewTokens = 32;  // at most, in shared memory
constexpr int kStep = 32;       // of K
constexpr int kPad = 32;        // elements: neighbouring rows begin 16 banks apart
constexpr int64_t kMaxK = 1024;
constexpr int kOneTrip = 128;          // of K: what a lane asks for at once
constexpr int kWarps = 4, kRows = 64;  // of a CTA, where tokens come from memory

struct Arguments {
  const __nv_bfloat16 *x, *w;
  __nv_bfloat16* y;
  int64_t x_token, x_head, y_token, y_head;
  int T, N, K;
};

// Rows of one head in shared memory, `Rows` of them or the last: [Rows][K + kPad]. What lies in a
// row that is none is multiplied, but never stored.
template <int Rows>
struct Weights {
  const Arguments& a;
  __nv_bfloat16* w;
  int head = static_cast<int>(blockIdx.y), first_row = static_cast<int>(blockIdx.x) * Rows;
  int rows = min(Rows, a.N - first_row);

  __device__ const __nv_bfloat16* row(int i) const { return w + i * (a.K + kPad); }
  __device__ const __nv_bfloat16* tokens() const { return a.x + head * a.x_head; }
  // By all threads: `count` rows of K, `stride` apart.
  __device__ void load(__nv_bfloat16* to, const __nv_bfloat16* from, int64_t stride, int count)
      const {
    const int chunks = a.K / 8;
    for (int i = static_cast<int>(threadIdx.x); i < count * chunks;
         i += static_cast<int>(blockDim.x)) {
      const int r = i / chunks, k = i % chunks * 8;
      device::copy_16_async(to + r * (a.K + kPad) + k, from + r * stride + k);
    }
    device::commit_copies();
  }
  __device__ void load_rows() const {
    load(w, a.w + (int64_t{head} * a.N + first_row) * a.K, a.K, rows);
  }
  // Two outputs of a token: of the rows of a group of eight that a lane has.
  __device__ void store(float first, float second, int token, int row) const {
    if (token >= a.T || row >= rows) return;
    __nv_bfloat16* y = a.y + token * a.y_token + head * a.y_head + first_row + row;
    *reinterpret_cast<uint32_t*>(y) = device::pack_bf16(first, second);
  }
  // 16 tokens from `token` on, rows of x, times Groups groups of 8 rows.
  template <int Groups, class X>
  __device__ void multiply(int token, int group, const X& x) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const __nv_bfloat16 *low_row = x.row(token + g), *high_row = x.row(token + g + 8);
    float sum[Groups][4] = {};
#pragma unroll 4
    for (int k = 8 * t; k < a.K; k += kStep) {
      const uint4 low = x.load(low_row, k), high = x.load(high_row, k);
#pragma unroll
      for (int j = 0; j < Groups; ++j) {
        const uint4 b = *reinterpret_cast<const uint4*>(row((group + j) * 8 + g) + k);
        device::mma_bf16_sync(sum[j], low.x, high.x, low.y, high.y, b.x, b.y);
        device::mma_bf16_sync(sum[j], low.z, high.z, low.w, high.w, b.z, b.w);
      }
    }
#pragma unroll
    for (int j = 0; j < Groups; ++j) {
      const int row = (group + j) * 8 + 2 * t;
      store(sum[j][0], sum[j][1], token + g, row);
      store(sum[j][2], sum[j][3], token + g + 8, row);
    }
  }
};

// Rows of tokens, and 16 bytes of one.
struct InShared {
  const __nv_bfloat16* x;
  int stride;
  __device__ const __nv_bfloat16* row(int token) const { return x + token * stride; }
  __device__ static uint4 load(const __nv_bfloat16* row, int k) {
    return *reinterpret_cast<const uint4*>(row + k);
  }
};
struct InMemory {
  const __nv_bfloat16* x;
  int64_t stride;
  int tokens;
  __device__ const __nv_bfloat16* row(int token) const {
    return token < tokens ? x + token * stride : nullptr;
  }
  __device__ static uint4 load(const __nv_bfloat16* row, int k) {
    if (row == nullptr) return {0, 0, 0, 0};
    return __ldcg(reinterpret_cast<const uint4*>(row + k));
  }
};

template <int Warps>
__global__ void __launch_bounds__(Warps * 32) multiply_few(const Arguments a) {
  extern __shared__ __align__(16) uint8_t memory[];
  const Weights<Warps * 8> weights{a, reinterpret_cast<__nv_bfloat16*>(memory)};
  __nv_bfloat16* tokens = weights.w + Warps * 8 * (a.K + kPad);
  weights.load_rows();
  device::launch_successor();
  device::wait_for_predecessor();
  weights.load(tokens, weights.tokens(), a.x_token, a.T);
  device::wait_copies<0>();
  __syncthreads();
  const int group = static_cast<int>(threadIdx.x) / 32;
  for (int token = 0; token < a.T; token += kTokens)
    weights.template multiply<1>(token, group, InShared{tokens, a.K + kPad});
}

template <bool SharedRows>
__global__ void __launch_bounds__(kWarps * 32) multiply_from_memory(const Arguments a) {
  extern __shared__ __align__(16) uint8_t memory[];
  const Weights<kRows> weights{a, reinterpret_cast<__nv_bfloat16*>(memory)};
  weights.load_rows();
  device::launch_successor();
  device::wait_for_predecessor();
  device::wait_copies<0>();
  __syncthreads();
  const InMemory x{weights.tokens(), a.x_token, a.T};
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if constexpr (SharedRows) {
    constexpr int kGroups = kRows / 8 / kWarps;
    weights.template multiply<kGroups>(0, warp * kGroups, x);
  } else {
    const int step = static_cast<int>(gridDim.z) * kWarps * kTokens;
    for (int token = (static_cast<int>(blockIdx.z) * kWarps + warp) * kTokens; token < a.T;
         token += step)
      weights.template multiply<kRows / 8>(token, 0, x);
  }
}

// As many rows a CTA as leave one for each multiprocessor, or, of more tokens, for each fourth.
void run_few(Exec& exec, const Arguments& a, int heads) {
  const int processors = cuda::multiprocessors(exec.device.index);
  const int wanted = a.T <= kTokens ? processors : processors / 4;
  const int tokens = (a.T + kTokens - 1) / kTokens * kTokens;
  const auto tiles = [&](int warps) { return (a.N + warps * 8 - 1) / (warps * 8); };
  const auto launch = [&](int warps, auto kernel) {
    const cuda::LaunchShape shape{
        .grid = dim3(static_cast<unsigned>(tiles(warps)), static_cast<unsigned>(heads)),
        .threads = warps * 32,
        .shared_bytes = (warps * 8 + tokens) * (a.K + kPad) * 2};
    cuda::launch(exec, "head_gemm", shape, kernel, a);
  };
  if (tiles(8) * heads >= wanted) return launch(8, multiply_few<8>);
  if (tiles(4) * heads >= wanted) return launch(4, multiply_few<4>);
  launch(2, multiply_few<2>);
}

void run_from_memory(Exec& exec, const Arguments& a, int heads) {
  // Enough CTAs for four a multiprocessor, but each with as many tokens as that allows.
  const bool few = a.T <= kTokens;
  const int tiles = (a.N + kRows - 1) / kRows;
  const int most = std::max(1, 4 * cuda::multiprocessors(exec.device.index) / (tiles * heads));
  const int passes = few ? 1 : std::min(most, (a.T + kWarps * kTokens - 1) / (kWarps * kTokens));
  const dim3 grid(
      static_cast<unsigned>(tiles), static_cast<unsigned>(heads), static_cast<unsigned>(passes)
  );
  const cuda::LaunchShape shape{
      .grid = grid, .threads = kWarps * 32, .shared_bytes = kRows * (a.K + kPad) * 2};
  cuda::launch(
      exec, "head_gemm", shape, few ? multiply_from_memory<true> : multiply_from_memory<false>, a
  );
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
  const int heads = static_cast<int>(args.x.dim(1));
  const bool few = a.T <= kFewTokens && a.K > kOneTrip;
  few ? run_few(exec, a, heads) : run_from_memory(exec, a, heads);
}

}  // namespace fathom::ops
