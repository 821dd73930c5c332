// w8a8_gemm, row skinny: up to 16 tokens, the time is the weights' way from DRAM. A first kernel
// rounds x; the second goes as bf16_gemm's row skinny does (docs/kernels/bf16_gemm.md) on the tiles
// of weight_tiles.h: a step of a warp is 8 x Blocks weight rows x 128 k, consecutive bytes, copied
// into a queue of the warp's own, those of the first steps before the predecessor has ended.
// Weights are mma.sync's 8-column operand B, tokens its 16-row operand A; lane 4 g + t holds the
// 16-byte pieces t and t + 4 of row g and of token g: k is permuted alike in both. FP8 codes become
// halves, exactly, so that sums keep float's bits.
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/fp8.cuh"
#include "fathom/ops/device/mma_sync.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/w8a8_gemm_rows.h"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/quant/row_codes.h"

namespace fathom::ops {
namespace {

constexpr int kWarps = 8;
constexpr int kPanel = 128;  // k of a step, and bytes of its rows
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
  const uint8_t *x, *w;  // codes, tiles
  const float *x_scale, *w_scale;
  const void* bias;  // null: none
  void* y;
  int64_t y_stride;
  int M, N, K, last_row;  // last_row: of a step, at most
  bool wide_y, wide_bias;
  Plan plan;
};

// Operand A of 32 k, four codes a register, and its product with the codes of operand B.
struct Int8Form {
  using Sum = int;
  static constexpr DType kCodes = DType::i8;
  uint32_t a[4];
  __device__ Int8Form(uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3) : a{a0, a1, a2, a3} {}
  __device__ void multiply(Sum (&sum)[4], uint32_t b0, uint32_t b1) const {
    device::mma_int8_sync(sum, a[0], a[1], a[2], a[3], b0, b1);
  }
};
struct Fp8Form {
  using Sum = float;
  static constexpr DType kCodes = DType::f8e4m3;
  uint2 a[4];
  __device__ Fp8Form(uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3)
      : a{device::halves_of_e4m3(a0),
          device::halves_of_e4m3(a1),
          device::halves_of_e4m3(a2),
          device::halves_of_e4m3(a3)} {}
  __device__ void multiply(Sum (&sum)[4], uint32_t b0, uint32_t b1) const {
    const uint2 first = device::halves_of_e4m3(b0), second = device::halves_of_e4m3(b1);
    device::mma_f16_sync(sum, a[0].x, a[1].x, a[2].x, a[3].x, first.x, second.x);
    device::mma_f16_sync(sum, a[0].y, a[1].y, a[2].y, a[3].y, first.y, second.y);
  }
};

template <class Form, int Tokens, int Blocks>
struct SharedStorage {
  static constexpr int kDepth = 12 / Blocks;  // steps of a warp on their way
  uint8_t queue[kWarps][kDepth][Blocks * 8 * kPanel];
  typename Form::Sum part[kWarps][Tokens][Blocks * 8];
  device::Barrier full[kWarps][kDepth];
};

template <class Form, int Tokens, int Blocks>
struct Skinny {
  using Storage = SharedStorage<Form, Tokens, Blocks>;
  using Sum = typename Form::Sum;
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
      full.arrive_expect(kRows * kPanel);
      const int row = min(next.group * a.plan.rows() + first_row, a.last_row);
      const int64_t tile = int64_t{row / 64} * a.plan.panels + next.panel;
      const uint8_t* from = a.w + tile * kTileBytes + row % 64 * kPanel;
      device::bulk_load(s.queue[warp][slot], from, kRows * kPanel, full, device::kEvictFirst);
    }
    advance(next);
  }

  __device__ void fetch(Activations& to, Place& next) const {
    if (!exists(next)) return;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const int token = h * 8 + lane / 4;
      const uint8_t* from = a.x + int64_t{token} * a.K + next.panel * kPanel + lane % 4 * 16;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        to.x[i][h] =
            token < a.M ? __ldcg(reinterpret_cast<const uint4*>(from + 64 * i)) : uint4{0, 0, 0, 0};
      }
    }
    advance(next);
  }

  __device__ void multiply(Sum (&sum)[Blocks][4], const uint8_t* queue, const Activations& now) {
    const int piece = lane / 4 * kPanel + (lane % 4 ^ lane / 4) * 16;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4 low = now.x[i][0];
      const uint4 high = kHalves > 1 ? now.x[i][kHalves - 1] : uint4{0, 0, 0, 0};
      uint4 v[Blocks];
#pragma unroll
      for (int b = 0; b < Blocks; ++b)
        v[b] = *reinterpret_cast<const uint4*>(queue + b * 8 * kPanel + (piece ^ i * 64));
      const Form first(low.x, high.x, low.y, high.y), second(low.z, high.z, low.w, high.w);
#pragma unroll
      for (int b = 0; b < Blocks; ++b) first.multiply(sum[b], v[b].x, v[b].y);
#pragma unroll
      for (int b = 0; b < Blocks; ++b) second.multiply(sum[b], v[b].z, v[b].w);
    }
  }

  // Where in its line of `part` a token's row lies: neighbouring tokens in different banks.
  __device__ static int column(int token, int row) {
    return (row + token * Blocks / 4 * 8) % kRows;
  }

  __device__ void put(int token, int n, Sum sum) const {
    float v = static_cast<float>(sum) * __ldcg(a.x_scale + token) * __ldg(a.w_scale + n);
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

  // Warps come here after different numbers of steps.
  __device__ static void meet() {
    device::named_barrier<1>(kWarps * 32);
  }

  // Sums of the warps that share rows, and y. At one place of the code: barriers are told apart by
  // where they stand.
  __device__ void finish(Sum (&sum)[Blocks][4], int group) {
#pragma unroll
    for (int b = 0; b < Blocks; ++b) {
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const int token = lane / 4 + 8 * h;
        Sum* out = &s.part[warp][token][column(token, 8 * b + lane % 4 * 2)];
        out[0] = sum[b][2 * h];
        out[1] = sum[b][2 * h + 1];
        sum[b][2 * h] = sum[b][2 * h + 1] = 0;
      }
    }
    meet();
    const int rows = a.plan.rows(), first_n = group * rows;
    for (int i = static_cast<int>(threadIdx.x); i < a.M * rows; i += kWarps * 32) {
      const int token = i / rows, r = i % rows;
      if (first_n + r >= a.N) continue;
      const int first_warp = r / kRows * a.plan.k_warps, at = column(token, r % kRows);
      Sum all = 0;
      for (int k = 0; k < a.plan.k_warps; ++k) all += s.part[first_warp + k][token][at];
      put(token, first_n + r, all);
    }
    meet();
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
    Sum sum[Blocks][4] = {};
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
    int turn = 0;  // of `ahead`
    while (exists(now)) {
      const int group = now.group;
      bool ended = false;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (ended || turn != i) continue;
        ended = take(ahead[i]);
        turn = (i + 1) % kAhead;
      }
      if (ended) finish(sum, group);
    }
  }
};

template <class Form, int Tokens, int Blocks>
__global__ void __launch_bounds__(kWarps * 32, 2) skinny(const Arguments a) {
  extern __shared__ __align__(1024) uint8_t memory[];
  using Work = Skinny<Form, Tokens, Blocks>;
  Work{a, *reinterpret_cast<typename Work::Storage*>(memory)}.run();
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

template <class Form, int Tokens, int Blocks>
void launch(Exec& exec, const Arguments& a) {
  cuda::launch(
      exec,
      "w8a8_gemm",
      {.grid = dim3(static_cast<unsigned>(a.plan.ctas)),
       .threads = kWarps * 32,
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<Form, Tokens, Blocks>))},
      skinny<Form, Tokens, Blocks>,
      a
  );
}

template <class Form, int Tokens>
void launch_by_blocks(Exec& exec, const Arguments& a) {
  if (a.plan.blocks == 4) return launch<Form, Tokens, 4>(exec, a);
  if (a.plan.blocks == 2) return launch<Form, Tokens, 2>(exec, a);
  launch<Form, Tokens, 1>(exec, a);
}

template <class Form>
void run(Exec& exec, const W8a8Gemm& args) {
  const int64_t M = args.x.dim(0), K = args.x.dim(1), N = args.y.dim(1);
  if (M == 0 || N == 0) return;
  Workspace::Mark mark(*exec.workspace);
  const RowCodes x = round_rows(exec, "w8a8_gemm", args.x, Form::kCodes);
  const Plan plan = plan_of(N, K / kPanel, cuda::multiprocessors(exec.device.index));
  const Arguments a{
      .x = static_cast<const uint8_t*>(x.codes.data),
      .w = static_cast<const uint8_t*>(args.w.data.data),
      .x_scale = x.scale.as<float>(),
      .w_scale = args.w.scale.as<float>(),
      .bias = args.bias.data,
      .y = args.y.data,
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(M),
      .N = static_cast<int>(N),
      .K = static_cast<int>(K),
      .last_row = static_cast<int>(tiled_rows(N)) - 8 * plan.blocks,
      .wide_y = args.y.dtype == DType::f32,
      .wide_bias = args.bias.defined() && args.bias.dtype == DType::f32,
      .plan = plan,
  };
  M <= 8 ? launch_by_blocks<Form, 8>(exec, a) : launch_by_blocks<Form, 16>(exec, a);
}

}  // namespace

bool w8a8_gemm_takes_skinny(const Exec&, const W8a8Gemm& args) {
  const DType form = args.w.data.dtype;
  return (form == DType::i8x64 || form == DType::f8e4m3x64) && args.x.dim(0) <= kMaxTokens;
}

void w8a8_gemm_skinny(Exec& exec, const W8a8Gemm& args) {
  args.w.data.dtype == DType::i8x64 ? run<Int8Form>(exec, args) : run<Fp8Form>(exec, args);
}

}  // namespace fathom::ops
