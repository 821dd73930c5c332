// bf16_gemm, row stream_sm90: few tokens (M <= 16), the time is the weights' way from DRAM.
// docs/kernels/bf16_gemm.md.
//
// Each CTA owns a run of weight rows, all of K: no sum is shared between CTAs. A producer thread
// copies boxes of up to 32 rows into a ring of shared-memory slots, before the predecessor has
// ended; eight consumer warps take 64 k of up to 16 rows at a time. The weights are mma.sync's
// 8-column operand B, the tokens its 16-row operand A: a row group of 8 leaves little to waste at
// any N. A lane reads 16 consecutive bytes of a row for both operands: k is permuted alike in both.
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

using device::Barrier;
using device::Ring;

constexpr int kStages = 6;
constexpr int kSlotBytes = 16384;  // two CTAs an SM: the successor's ring fills beside this one
constexpr int kWarps = 8;          // consumers
constexpr int kPanel = 64;         // k of a warp at a time: 128 bytes of a row
constexpr int kPanelBytes = 128;
constexpr int kWarpRows = 16;
constexpr int kMaxTokens = 16;

struct Arguments {
  const __nv_bfloat16* x;
  const void* bias;
  void* y;
  int64_t x_stride, y_stride;
  int M, N, K;
  bool wide_y = false, wide_bias = false;
  int rows_per_cta = 0;
  int slot_rows = 0, slot_panels = 0;  // of one ring slot; whole sweeps
  int sweep = kWarps;  // panels that the warps take side by side: 8, or 4 with rows above 16
};

template <int Halves>
struct SharedStorage {
  uint8_t w[kStages][kSlotBytes];  // [panels][rows] of 128 bytes, swizzled by address
  float sums[kWarps][Halves * 8][kWarpRows + 4];
  Barrier full[kStages], empty[kStages];
};

// Halves: of 8 tokens.
template <int Halves>
struct Skinny {
  static constexpr int kAhead = Halves == 1 ? 4 : 3;  // steps whose activations are on their way

  const Arguments& a;
  SharedStorage<Halves>& s;
  int first_row, end_row;

  __device__ int panels() const { return a.K / kPanel; }
  __device__ int blocks() const { return (end_row - first_row + a.slot_rows - 1) / a.slot_rows; }

  __device__ void produce(const device::TensorMap& w) {
    const int per_block = (panels() + a.slot_panels - 1) / a.slot_panels;
    const auto bytes = static_cast<uint32_t>(a.slot_rows * a.slot_panels * kPanelBytes);
    const int all = blocks() * per_block;
    int row = first_row, panel = 0;
    const auto load = [&](int stage) {
      s.full[stage].arrive_expect(bytes);
      device::box_load_3d(s.w[stage], w, 0, row, panel, s.full[stage], device::kEvictFirst);
      panel += a.slot_panels;
      if (panel < panels()) return;
      panel = 0;
      row += a.slot_rows;
    };
    for (int i = 0; i < min(kStages, all); ++i) load(i);
    device::launch_successor();
    Ring<kStages> ring;
    for (int slot = kStages; slot < all; ++slot) {
      s.empty[ring.stage].wait(ring.full_parity());  // the slot's first emptying is phase 0
      load(ring.stage);
      ring.advance();
    }
  }

  // Sums of the warps that share rows, bias, and y.
  __device__ void store(int first, int rows) {
    device::named_barrier<1>(kWarps * 32);
    const int tokens = min(a.M, Halves * 8);
    for (int i = static_cast<int>(threadIdx.x); i < tokens * 32; i += kWarps * 32) {
      const int token = i / 32, row = i % 32;
      if (row >= rows) continue;
      const int n = first + row;
      const int first_warp = row / kWarpRows * a.sweep;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w)
        sum += w < a.sweep ? s.sums[first_warp + w][token][row % kWarpRows] : 0.0f;
      if (a.bias != nullptr) {
        sum += a.wide_bias ? __ldg(static_cast<const float*>(a.bias) + n)
                           : __bfloat162float(static_cast<const __nv_bfloat16*>(a.bias)[n]);
      }
      if (a.wide_y) {
        static_cast<float*>(a.y)[token * a.y_stride + n] = sum;
      } else {
        static_cast<__nv_bfloat16*>(a.y)[token * a.y_stride + n] = __float2bfloat16_rn(sum);
      }
    }
    device::named_barrier<1>(kWarps * 32);
  }

  // Activations of one step: 16 bytes of the panel's first and second half, of each half of tokens.
  struct Step {
    uint4 x[2][Halves];
  };
  __device__ void fetch(Step& to, int panel, int g, int t) const {
#pragma unroll
    for (int h = 0; h < Halves; ++h) {
      const int token = h * 8 + g;
      const bool exists = token < a.M && panel < panels();
      const __nv_bfloat16* x = a.x + token * a.x_stride + panel * kPanel + 8 * t;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        to.x[half][h] =
            exists ? __ldcg(reinterpret_cast<const uint4*>(x + half * 32)) : uint4{0, 0, 0, 0};
      }
    }
  }

  // sum += products of a panel's 8 rows. Lane (g, t) reads 16-byte chunks t and t + 4 of row g, the
  // one first that keeps neighbouring rows in different banks.
  __device__ static void multiply(
      float (&sum)[4], const uint8_t* rows, uint32_t first_chunk, bool swapped, const Step& step
  ) {
    const uint4 p = *reinterpret_cast<const uint4*>(rows + first_chunk * 16);
    const uint4 q = *reinterpret_cast<const uint4*>(rows + (first_chunk ^ 4) * 16);
    const uint4 b[2] = {swapped ? q : p, swapped ? p : q};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 low = step.x[half][0];
      const uint4 high = Halves > 1 ? step.x[half][Halves - 1] : uint4{0, 0, 0, 0};
      device::mma_bf16_sync(sum, low.x, high.x, low.y, high.y, b[half].x, b[half].y);
      device::mma_bf16_sync(sum, low.z, high.z, low.w, high.w, b[half].z, b[half].w);
    }
  }

  __device__ void consume() {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int g = lane / 4, t = lane % 4;
    const int warp_panel = warp % a.sweep, warp_row = warp / a.sweep * kWarpRows;
    const int steps = blocks() * ((panels() + a.sweep - 1) / a.sweep);
    float sum[2][4] = {};
    Step ahead[kAhead];
    device::wait_for_predecessor();
    int next = warp_panel;  // panel whose activations are asked for next
    const auto fetch_next = [&](Step& to) {
      fetch(to, next, g, t);
      next += a.sweep;
      if (next - warp_panel >= panels()) next = warp_panel;
    };
#pragma unroll
    for (int i = 0; i < kAhead; ++i) fetch_next(ahead[i]);
    Ring<kStages> ring;
    int panel = 0, in_slot = 0, row = first_row;  // of the sweep
    const auto take = [&](Step& now) {
      if (in_slot == 0) s.full[ring.stage].wait(ring.full_parity());
      const int rows = min(a.slot_rows, end_row - row) - warp_row;
      const int line = (in_slot + warp_panel) * a.slot_rows + warp_row + g;
      const uint8_t* w = s.w[ring.stage] + line * kPanelBytes;
      const auto twist = static_cast<uint32_t>(line % 8);
      const uint32_t chunk = (static_cast<uint32_t>(t) ^ (twist & 3)) + 4 * (g % 2);
      const bool swapped = (g % 2 != 0) != (twist >= 4);
      if (panel + warp_panel < panels()) {
        if (rows > 0) multiply(sum[0], w, chunk, swapped, now);
        if (rows > 8) multiply(sum[1], w + 8 * kPanelBytes, chunk, swapped, now);
      }
      fetch_next(now);
      panel += a.sweep;
      in_slot += a.sweep;
      if (in_slot == a.slot_panels || panel >= panels()) {
        __syncwarp();
        if (lane == 0) s.empty[ring.stage].arrive();
        ring.advance();
        in_slot = 0;
      }
      if (panel < panels()) return;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int h = 0; h < Halves; ++h) {
          float* out = &s.sums[warp][h * 8 + g][j * 8 + 2 * t];
          *reinterpret_cast<float2*>(out) = {sum[j][2 * h], sum[j][2 * h + 1]};
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[j][i] = 0;
      }
      store(row, rows + warp_row);
      row += a.slot_rows;
      panel = 0;
    };
    for (int i = 0; i < steps; i += kAhead) {
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (i + j < steps) take(ahead[j]);
      }
    }
  }
};

template <int Halves>
__global__ void __launch_bounds__((kWarps + 1) * 32, 2)
    skinny(const Arguments a, const __grid_constant__ device::TensorMap w) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<Halves>*>(memory);
  const int first = static_cast<int>(blockIdx.x) * a.rows_per_cta;
  Skinny<Halves> work{a, s, first, min(first + a.rows_per_cta, a.N)};
  const bool producer = threadIdx.x == kWarps * 32;
  if (producer) {
    device::prefetch_map(w);
    for (int i = 0; i < kStages; ++i) {
      s.full[i].init(1);
      s.empty[i].init(kWarps);
    }
    device::fence_barrier_init();
  }
  __syncthreads();
  if (producer) {
    work.produce(w);
  } else if (threadIdx.x < kWarps * 32) {
    work.consume();
  }
}

// Weights as [K / 64][N] lines of 128 bytes; a box is a ring slot.
cuda::TensorMap weight_map(const Tensor& weight, const Arguments& a) {
  const auto row_bytes = static_cast<uint64_t>(weight.stride(0)) * 2;
  return cuda::make_tensor_map({
      .data = weight.data,
      .dtype = DType::bf16,
      .rank = 3,
      .dims = {kPanel, static_cast<uint64_t>(a.N), static_cast<uint64_t>(a.K / kPanel)},
      .stride_bytes = {row_bytes, kPanelBytes},
      .box = {kPanel, static_cast<uint32_t>(a.slot_rows), static_cast<uint32_t>(a.slot_panels)},
      .swizzle = cuda::Swizzle::bytes128,
  });
}

// Rows of a CTA in equal blocks of at most 32, and as many panels of them as a slot holds.
void plan(Arguments& a, int sms) {
  constexpr int kMostRows = 32;
  a.rows_per_cta = (a.N + sms - 1) / sms;
  const int blocks = (a.rows_per_cta + kMostRows - 1) / kMostRows;
  a.slot_rows = (a.rows_per_cta + blocks - 1) / blocks;
  a.sweep = a.slot_rows <= kWarpRows ? kWarps : kWarps / 2;
  const int wanted = (a.K / kPanel + a.sweep - 1) / a.sweep;
  const int fitting = kSlotBytes / (a.slot_rows * kPanelBytes) / a.sweep;
  a.slot_panels = std::min(wanted, fitting) * a.sweep;
}

}  // namespace

bool bf16_gemm_takes_stream(const Exec&, const Bf16Gemm& args) {
  const auto aligned = [](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) % 8 == 0;
  };
  return args.x.dtype == DType::bf16 && args.weight.dtype == DType::bf16 &&
         args.x.dim(0) <= kMaxTokens && args.x.dim(1) % kPanel == 0 && aligned(args.x) &&
         aligned(args.weight);
}

void bf16_gemm_stream_sm90(Exec& exec, const Bf16Gemm& args) {
  Arguments a{
      .x = static_cast<const __nv_bfloat16*>(args.x.data),
      .bias = args.bias.data,
      .y = args.y.data,
      .x_stride = args.x.stride(0),
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(args.x.dim(0)),
      .N = static_cast<int>(args.y.dim(1)),
      .K = static_cast<int>(args.x.dim(1)),
      .wide_y = args.y.dtype == DType::f32,
      .wide_bias = args.bias.defined() && args.bias.dtype == DType::f32,
  };
  plan(a, cuda::multiprocessors(exec.device.index));
  const bool few = a.M <= 8;
  cuda::launch(
      exec,
      "bf16_gemm",
      {.grid = dim3(static_cast<unsigned>((a.N + a.rows_per_cta - 1) / a.rows_per_cta)),
       .threads = (kWarps + 1) * 32,
       .shared_bytes = static_cast<int>(few ? sizeof(SharedStorage<1>) : sizeof(SharedStorage<2>))},
      few ? skinny<1> : skinny<2>,
      a,
      weight_map(args.weight, a)
  );
}

}  // namespace fathom::ops
