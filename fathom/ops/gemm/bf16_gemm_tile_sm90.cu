// bf16_gemm, row tile_sm90: any number of tokens, meant for many. docs/kernels/bf16_gemm.md.
//
// A CTA computes tiles of y, 128 tokens by 256 weight rows: a producer thread fills a ring of
// shared-memory slots by TMA, each 64 of K; each consumer warpgroup multiplies 64 tokens with all
// columns by WGMMA. The tokens are operand A, the weights operand B. Weights of the first slots are
// on their way before the predecessor has ended. Tiles that share weights run at the same time. The
// outputs leave by the copy engine beside the next tile's products.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/fragment_box.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/mma_wide_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/bf16_gemm_rows.h"
#include "fathom/ops/gemm/tile_plan.h"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Ring;
using device::Vec;

constexpr int kDepth = 64;      // of K in a slot
constexpr int kRowBytes = 128;  // of a slot's rows
constexpr int kGroups = 2;      // of 64 tokens, a warpgroup each
constexpr int kTokens = kGroups * 64, kColumns = 256;
constexpr int kStages = 4;
constexpr int kConsumers = kGroups * 128, kThreads = kConsumers + 32;
constexpr int kSums = kColumns / 2;  // of a thread
constexpr int kBoxes = 2;            // of outputs of a warpgroup
constexpr uint32_t kSlotBytes = (kTokens + kColumns) * kRowBytes;

struct Arguments {
  const void* bias;  // null: none
  void* y;
  int64_t y_stride;
  int M, N;
  TilePlan plan;
  bool wide_y, wide_bias;
  bool boxes;  // y leaves as boxes of bf16
};

struct SharedStorage {
  uint8_t x[kStages][kTokens * kRowBytes];
  uint8_t w[kStages][kColumns * kRowBytes];
  uint8_t y[kGroups][kBoxes][device::kBoxBytes];
  Barrier full[kStages], empty[kStages];
};

struct Product {
  const Arguments& a;
  SharedStorage& s;
  const device::TensorMap& y;

  __device__ void load_weights(const device::TensorMap& w, int tile, int block, int stage) {
    s.full[stage].arrive_expect(kSlotBytes);
    device::box_load(
        s.w[stage], w, block * kDepth, a.plan.column(tile), s.full[stage], device::kEvictNormal
    );
  }

  // The first slots get their weights before the predecessor has ended.
  __device__ void produce(const device::TensorMap& x, const device::TensorMap& w) {
    const int cta = static_cast<int>(blockIdx.x);
    int ahead = 0;  // slots whose weights are on their way
    a.plan.for_each_piece(cta, [&](const TilePiece& p) {
      for (int block = p.first; block < p.last && ahead < kStages; ++block, ++ahead)
        load_weights(w, p.tile, block, ahead);
    });
    device::launch_successor();
    device::wait_for_predecessor();
    Ring<kStages> ring;
    int slot = 0;
    a.plan.for_each_piece(cta, [&](const TilePiece& p) {
      const int token = a.plan.token(p.tile);
      for (int block = p.first; block < p.last; ++block, ++slot) {
        if (slot >= ahead) {
          s.empty[ring.stage].wait(ring.empty_parity());
          load_weights(w, p.tile, block, ring.stage);
        }
        device::box_load(
            s.x[ring.stage], x, block * kDepth, token, s.full[ring.stage], device::kEvictLast
        );
        ring.advance();
      }
    });
  }

  __device__ void consume() {
    const int group = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
    device::wait_for_predecessor();
    Ring<kStages> ring;
    a.plan.for_each_piece(static_cast<int>(blockIdx.x), [&](const TilePiece& p) {
      float sum[kSums];
      multiply(p, group, ring, sum);
      const int token = a.plan.token(p.tile) + group * 64, column = a.plan.column(p.tile);
      if (a.boxes) {
        store_boxes(sum, group, token, column);
      } else {
        store(sum, token, column);
      }
    });
    device::wait_stores_read<0>();
  }

  // One slot's products stay under way while the next one's are given.
  __device__ void multiply(
      const TilePiece& p, int group, Ring<kStages>& ring, float (&sum)[kSums]
  ) {
    const uint64_t x = device::operand_descriptor(s.x[0] + group * 64 * kRowBytes);
    const uint64_t w = device::operand_descriptor(s.w[0]);
    constexpr uint64_t kTokenStep = kTokens * kRowBytes / 16;
    constexpr uint64_t kWeightStep = kColumns * kRowBytes / 16;
    int before = 0;  // the slot whose products are under way
    for (int block = p.first; block < p.last; ++block) {
      s.full[ring.stage].wait(ring.full_parity());
      const uint64_t x_slot = x + static_cast<uint64_t>(ring.stage) * kTokenStep;
      const uint64_t w_slot = w + static_cast<uint64_t>(ring.stage) * kWeightStep;
      device::pin(sum);
      device::wgmma_fence();
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k) {
        const auto step = static_cast<uint64_t>(2 * k);
        const bool more = block > p.first || k > 0;
        device::mma_bf16_wide<false>(sum, x_slot + step, w_slot + step, more);
      }
      device::wgmma_commit();
      device::wgmma_wait<1>();
      if (block > p.first && threadIdx.x % 32 == 0) s.empty[before].arrive();
      before = ring.stage;
      ring.advance();
    }
    device::wgmma_wait<0>();
    device::pin(sum);
    if (threadIdx.x % 32 == 0) s.empty[before].arrive();
  }

  // Through the boxes in turn; the copy engine drops what lies outside y.
  __device__ void store_boxes(float (&sum)[kSums], int group, int token, int column) {
    const bool leader = threadIdx.x % 128 == 0;
    if (a.bias != nullptr) add_bias(sum, column);
#pragma unroll
    for (int box = 0; box < kColumns / 64; ++box) {
      uint8_t* image = s.y[group][box % kBoxes];
      if (leader) device::wait_stores_read<kBoxes - 1>();
      device::named_barrier(1 + group, 128);
      device::fill_box(image, sum + 32 * box);
      device::fence_shared_for_async();
      device::named_barrier(1 + group, 128);
      if (!leader) continue;
      if (column + 64 * box < a.N && token < a.M)
        device::box_store(y, image, column + 64 * box, token);
      device::commit_stores();
    }
  }

  __device__ void add_bias(float (&sum)[kSums], int column) const {
    const int pair = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum[i] += bias(min(column + i / 4 * 8 + pair + i % 2, a.N - 1));
  }

  __device__ float bias(int n) const {
    if (a.bias == nullptr) return 0.0f;
    return a.wide_bias ? __ldg(static_cast<const float*>(a.bias) + n)
                       : Vec<__nv_bfloat16>::load(static_cast<const __nv_bfloat16*>(a.bias) + n);
  }

  __device__ void store(const float (&sum)[kSums], int token, int column) const {
    const int warp = static_cast<int>(threadIdx.x) % 128 / 32;
    const int g = static_cast<int>(threadIdx.x) % 32 / 4,
              pair = static_cast<int>(threadIdx.x) % 4 * 2;
    const bool even = a.y_stride % 2 == 0;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      const int n = column + 8 * j + pair;
      if (n >= a.N) continue;
      const bool both = even && n + 1 < a.N;
      const float b0 = bias(n), b1 = n + 1 < a.N ? bias(n + 1) : 0.0f;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int m = token + 16 * warp + g + 8 * h;
        if (m >= a.M) continue;
        const float v0 = sum[4 * j + 2 * h] + b0, v1 = sum[4 * j + 2 * h + 1] + b1;
        const int64_t at = m * a.y_stride + n;
        if (a.wide_y) {
          put(static_cast<float*>(a.y) + at, v0, v1, both, n);
        } else {
          put(static_cast<__nv_bfloat16*>(a.y) + at, v0, v1, both, n);
        }
      }
    }
  }

  __device__ void put(float* y, float v0, float v1, bool both, int n) const {
    if (both) {
      *reinterpret_cast<float2*>(y) = {v0, v1};
    } else {
      y[0] = v0;
      if (n + 1 < a.N) y[1] = v1;
    }
  }
  __device__ void put(__nv_bfloat16* y, float v0, float v1, bool both, int n) const {
    if (both) {
      *reinterpret_cast<uint32_t*>(y) = device::pack_bf16(v0, v1);
    } else {
      y[0] = __float2bfloat16_rn(v0);
      if (n + 1 < a.N) y[1] = __float2bfloat16_rn(v1);
    }
  }
};

__global__ void __launch_bounds__(kThreads, 1) multiply(
    const Arguments a,
    const __grid_constant__ device::TensorMap x,
    const __grid_constant__ device::TensorMap w,
    const __grid_constant__ device::TensorMap y
) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage*>(memory);
  Product work{a, s, y};
  const bool producer = threadIdx.x == kConsumers;
  if (producer) {
    device::prefetch_map(x);
    device::prefetch_map(w);
    for (int i = 0; i < kStages; ++i) {
      s.full[i].init(1);
      s.empty[i].init(kConsumers / 32);
    }
    device::fence_barrier_init();
  }
  __syncthreads();
  if (producer) {
    work.produce(x, w);
  } else if (threadIdx.x < kConsumers) {
    work.consume();
  }
}

}  // namespace

bool bf16_gemm_takes_tile(const Exec&, const Bf16Gemm& args) {
  const int64_t y_bytes = info(args.y.dtype).block_bytes;
  return bf16_gemm_in_boxes(args) && reinterpret_cast<uintptr_t>(args.y.data) % (2 * y_bytes) == 0;
}

void bf16_gemm_tile_sm90(Exec& exec, const Bf16Gemm& args) {
  const int64_t M = args.x.dim(0), K = args.x.dim(1), N = args.y.dim(1);
  const Arguments a{
      .bias = args.bias.defined() ? args.bias.data : nullptr,
      .y = args.y.data,
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(M),
      .N = static_cast<int>(N),
      .plan = plan_whole_tiles(
          M,
          N,
          (K + kDepth - 1) / kDepth,
          kTokens,
          kColumns,
          cuda::multiprocessors(exec.device.index)
      ),
      .wide_y = args.y.dtype == DType::f32,
      .wide_bias = args.bias.defined() && args.bias.dtype == DType::f32,
      .boxes = args.y.dtype == DType::bf16 && args.y.stride(0) % 8 == 0 &&
               reinterpret_cast<uintptr_t>(args.y.data) % 16 == 0,
  };
  const auto map = [&](const Tensor& t, int64_t rows, int box) {
    return cuda::make_matrix_map(
        t.data, DType::bf16, rows, K, t.stride(0) * 2, box, kDepth, cuda::Swizzle::bytes128
    );
  };
  const cuda::TensorMap x = map(args.x, M, kTokens);
  const cuda::TensorMap y =
      a.boxes ? cuda::make_matrix_map(
                    args.y.data, DType::bf16, M, N, 2 * a.y_stride, 64, 64, cuda::Swizzle::bytes128
                )
              : x;
  cuda::launch(
      exec,
      "bf16_gemm",
      {.grid = dim3(static_cast<unsigned>(a.plan.ctas)),
       .threads = kThreads,
       .shared_bytes = static_cast<int>(sizeof(SharedStorage))},
      multiply,
      a,
      x,
      map(args.weight, N, kColumns),
      y
  );
}

}  // namespace fathom::ops
