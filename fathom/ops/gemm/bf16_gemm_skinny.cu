// bf16_gemm, row skinny: up to 16 tokens, the time is the weights' way from DRAM.
// docs/kernels/bf16_gemm.md.
//
// A step of a warp is 8 x Blocks weight rows x 64 k: one copy by TMA into a queue of the warp's
// own, so that warps wait for nobody; 96 KB of a CTA are on their way, those of the first steps
// before the predecessor has ended. Activations come from L2 into registers, past the queue.
// Weights are mma.sync's 8-column operand B, tokens its 16-row operand A; lane 4 g + t holds the
// 16-byte pieces t and t + 4 of row g and of token g: k is permuted alike in both. The warps of a
// CTA that share rows stand side by side along K and add up in its order.
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/mma_sync.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/bf16_gemm_rows.h"

namespace fathom::ops {
namespace {

constexpr int kWarps = 8;
constexpr int kPanel = 64;  // k of a step
constexpr int kPanelBytes = 128;
constexpr int kMaxTokens = 16;
constexpr int kAhead = 2;  // steps whose activations are on their way

// CTA c takes row groups c, c + ctas, ...
struct Plan {
  int k_warps = 1;  // that share rows
  int blocks = 1;   // of 8 rows, of a warp's step
  int groups = 0;   // of rows() weight rows
  int panels = 0;
  int ctas = 0;

  __host__ __device__ int rows() const { return kWarps / k_warps * 8 * blocks; }
};

struct Arguments {
  const __nv_bfloat16* x;
  const void* bias;
  void* y;
  int64_t x_stride, y_stride;
  int M, N;
  bool wide_y, wide_bias;
  Plan plan;
};

template <int Tokens, int Blocks>
struct SharedStorage {
  static constexpr int kDepth = 12 / Blocks;  // steps of a warp on their way
  uint8_t queue[kWarps][kDepth][Blocks * 8 * kPanelBytes];
  float part[kWarps][Tokens][Blocks * 8];
  device::Barrier full[kWarps][kDepth];
};

template <int Tokens, int Blocks>
struct Skinny {
  using Storage = SharedStorage<Tokens, Blocks>;
  static constexpr int kDepth = Storage::kDepth;
  static constexpr int kRows = 8 * Blocks;
  static constexpr int kHalves = Tokens / 8;
  // A step of this warp, and its activations.
  struct Place {
    int group, panel;
  };
  struct Activations {
    uint4 x[2][kHalves];
  };

  const Arguments& a;
  const device::TensorMap& w;
  Storage& s;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int first_panel = warp % a.plan.k_warps, first_row = warp / a.plan.k_warps * kRows;

  __device__ Place first() const { return {static_cast<int>(blockIdx.x), first_panel}; }
  __device__ bool exists(const Place& p) const { return p.group < a.plan.groups; }
  // True when that was the last step of its group.
  __device__ bool advance(Place& p) const {
    p.panel += a.plan.k_warps;
    if (p.panel < a.plan.panels) return false;
    p = {p.group + static_cast<int>(gridDim.x), first_panel};
    return true;
  }

  __device__ void copy(Place& next, int slot) {
    if (!exists(next)) return;
    if (lane == 0) {
      device::Barrier& full = s.full[warp][slot];
      full.arrive_expect(kRows * kPanelBytes);
      const int row = next.group * a.plan.rows() + first_row;
      device::box_load(s.queue[warp][slot], w, next.panel * kPanel, row, full, device::kEvictFirst);
    }
    advance(next);
  }

  __device__ void fetch(Activations& to, Place& next) const {
    if (!exists(next)) return;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const int token = h * 8 + lane / 4;
      const __nv_bfloat16* from = a.x + token * a.x_stride + next.panel * kPanel + lane % 4 * 8;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        to.x[i][h] =
            token < a.M ? __ldcg(reinterpret_cast<const uint4*>(from + 32 * i)) : uint4{0, 0, 0, 0};
      }
    }
    advance(next);
  }

  __device__ void multiply(float (&sum)[Blocks][4], const uint8_t* queue, const Activations& now) {
    const int piece = lane / 4 * kPanelBytes + (lane % 4 ^ lane / 4) * 16;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4 low = now.x[i][0];
      const uint4 high = kHalves > 1 ? now.x[i][kHalves - 1] : uint4{0, 0, 0, 0};
      uint4 v[Blocks];
#pragma unroll
      for (int b = 0; b < Blocks; ++b)
        v[b] = *reinterpret_cast<const uint4*>(queue + b * 8 * kPanelBytes + (piece ^ i * 64));
#pragma unroll
      for (int b = 0; b < Blocks; ++b)
        device::mma_bf16_sync(sum[b], low.x, high.x, low.y, high.y, v[b].x, v[b].y);
#pragma unroll
      for (int b = 0; b < Blocks; ++b)
        device::mma_bf16_sync(sum[b], low.z, high.z, low.w, high.w, v[b].z, v[b].w);
    }
  }

  // Where in its line of `part` a token's row lies: neighbouring tokens in different banks.
  __device__ static int column(int token, int row) {
    return (row + token * Blocks / 4 * 8) % kRows;
  }

  __device__ void put(int token, int n, float v) const {
    if (a.bias != nullptr) {
      v += a.wide_bias ? __ldg(static_cast<const float*>(a.bias) + n)
                       : __bfloat162float(static_cast<const __nv_bfloat16*>(a.bias)[n]);
    }
    if (a.wide_y) {
      static_cast<float*>(a.y)[token * a.y_stride + n] = v;
    } else {
      static_cast<__nv_bfloat16*>(a.y)[token * a.y_stride + n] = __float2bfloat16_rn(v);
    }
  }

  // Sums of the warps that share rows, and y.
  __device__ void finish(float (&sum)[Blocks][4], int group) {
#pragma unroll
    for (int b = 0; b < Blocks; ++b) {
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const int token = lane / 4 + 8 * h;
        float* out = &s.part[warp][token][column(token, 8 * b + lane % 4 * 2)];
        *reinterpret_cast<float2*>(out) = {sum[b][2 * h], sum[b][2 * h + 1]};
        sum[b][2 * h] = sum[b][2 * h + 1] = 0;
      }
    }
    __syncthreads();
    const int rows = a.plan.rows(), first_n = group * rows;
    for (int i = static_cast<int>(threadIdx.x); i < a.M * rows; i += kWarps * 32) {
      const int token = i / rows, r = i % rows;
      if (first_n + r >= a.N) continue;
      const int first_warp = r / kRows * a.plan.k_warps, at = column(token, r % kRows);
      float all = 0;
      for (int k = 0; k < a.plan.k_warps; ++k) all += s.part[first_warp + k][token][at];
      put(token, first_n + r, all);
    }
    __syncthreads();
  }

  __device__ void run() {
    if (lane == 0) {
      for (int i = 0; i < kDepth; ++i) s.full[warp][i].init(1);
      device::fence_barrier_init();
    }
    __syncwarp();
    Place to_copy = first(), to_fetch = first(), now = first();
    for (int i = 0; i < kDepth; ++i) copy(to_copy, i);
    device::launch_successor();
    device::wait_for_predecessor();
    Activations ahead[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) fetch(ahead[i], to_fetch);
    float sum[Blocks][4] = {};
    device::Ring<kDepth> ring;
    // True when that was the last step of its group.
    const auto take = [&](Activations& x) {
      s.full[warp][ring.stage].wait(ring.full_parity());
      multiply(sum, s.queue[warp][ring.stage], x);
      __syncwarp();
      copy(to_copy, ring.stage);
      fetch(x, to_fetch);
      ring.advance();
      return advance(now);
    };
    static_assert(kAhead == 2);
    // Warps come to a group's end after an odd or an even step; they meet at one place.
    for (bool odd = false; exists(now); odd = !odd) {
      const int group = now.group;
      if (odd ? take(ahead[1]) : take(ahead[0])) finish(sum, group);
    }
  }
};

template <int Tokens, int Blocks>
__global__ void __launch_bounds__(kWarps * 32, 2)
    skinny(const Arguments a, const __grid_constant__ device::TensorMap w) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Skinny<Tokens, Blocks>{a, w, *reinterpret_cast<SharedStorage<Tokens, Blocks>*>(memory)}.run();
}

// As many rows a step as leave half of the processors a CTA: fewer bytes of x go with them.
Plan plan_of(int64_t N, int64_t panels, int processors) {
  Plan plan{.k_warps = kWarps, .blocks = 4, .panels = static_cast<int>(panels)};
  while (plan.k_warps > panels) plan.k_warps /= 2;
  const auto groups = [&] { return static_cast<int>((N + plan.rows() - 1) / plan.rows()); };
  while (plan.blocks > 1 && groups() < processors / 2) plan.blocks /= 2;
  plan.groups = groups();
  const int turns = (plan.groups + 2 * processors - 1) / (2 * processors);
  plan.ctas = (plan.groups + turns - 1) / turns;
  return plan;
}

template <int Tokens, int Blocks>
void launch(Exec& exec, const Arguments& a, const Tensor& weight) {
  cuda::launch(
      exec,
      "bf16_gemm",
      {.grid = dim3(static_cast<unsigned>(a.plan.ctas)),
       .threads = kWarps * 32,
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<Tokens, Blocks>))},
      skinny<Tokens, Blocks>,
      a,
      cuda::make_matrix_map(
          weight.data,
          DType::bf16,
          a.N,
          a.plan.panels * kPanel,
          weight.stride(0) * 2,
          8 * Blocks,
          kPanel,
          cuda::Swizzle::bytes128
      )
  );
}

template <int Tokens>
void launch_by_blocks(Exec& exec, const Arguments& a, const Tensor& weight) {
  if (a.plan.blocks == 4) return launch<Tokens, 4>(exec, a, weight);
  if (a.plan.blocks == 2) return launch<Tokens, 2>(exec, a, weight);
  launch<Tokens, 1>(exec, a, weight);
}

}  // namespace

bool bf16_gemm_takes_skinny(const Exec&, const Bf16Gemm& args) {
  const auto aligned = [](const Tensor& t) {
    return t.dtype == DType::bf16 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 &&
           t.stride(0) % 8 == 0;
  };
  return args.x.dim(0) <= kMaxTokens && args.x.dim(1) % kPanel == 0 && aligned(args.x) &&
         aligned(args.weight);
}

void bf16_gemm_skinny(Exec& exec, const Bf16Gemm& args) {
  const int64_t N = args.y.dim(1), panels = args.x.dim(1) / kPanel;
  const Arguments a{
      .x = static_cast<const __nv_bfloat16*>(args.x.data),
      .bias = args.bias.data,
      .y = args.y.data,
      .x_stride = args.x.stride(0),
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(args.x.dim(0)),
      .N = static_cast<int>(N),
      .wide_y = args.y.dtype == DType::f32,
      .wide_bias = args.bias.defined() && args.bias.dtype == DType::f32,
      .plan = plan_of(N, panels, cuda::multiprocessors(exec.device.index)),
  };
  a.M <= 8 ? launch_by_blocks<8>(exec, a, args.weight) : launch_by_blocks<16>(exec, a, args.weight);
}

}  // namespace fathom::ops
