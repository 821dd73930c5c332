// bf16_gemm, row tile_sm90: any number of tokens, WGMMA. docs/kernels/bf16_gemm.md.
//
// A CTA computes tiles of y, 64 x Groups tokens by Columns weight rows: a producer thread fills a
// ring of shared-memory slots by TMA, each 64 of K; each consumer warpgroup multiplies 64 tokens
// with all columns. The tokens are operand A, the weights operand B. Weights of the first slots are
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

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Ring;
using device::Vec;

constexpr int kDepth = 64;      // of K in a slot
constexpr int kRowBytes = 128;  // of a slot's rows
constexpr int kBand = 8;        // token tiles that run beside each other

struct Arguments {
  const void* bias;  // null: none
  void* y;
  int64_t y_stride;
  int M, N, blocks;  // blocks: slots of K
  int token_tiles, column_tiles;
  bool wide_y, wide_bias;
  bool boxes;  // y leaves as boxes of bf16
};

template <int Groups, int Columns, int Stages>
struct SharedStorage {
  uint8_t x[Stages][Groups * 64 * kRowBytes];
  uint8_t w[Stages][Columns * kRowBytes];
  static constexpr int kBoxes = Columns > 64 ? 2 : 1;
  uint8_t y[Groups][kBoxes][device::kBoxBytes];
  Barrier full[Stages], empty[Stages];
};

struct Tile {
  int token, column;  // first of each
};

template <int Groups, int Columns, int Stages>
struct Product {
  using Storage = SharedStorage<Groups, Columns, Stages>;
  static constexpr int kConsumers = Groups * 128;
  static constexpr int kSums = Columns / 2;
  static constexpr uint32_t kBytes = (Groups * 64 + Columns) * kRowBytes;

  const Arguments& a;
  Storage& s;
  const device::TensorMap& y;

  // Bands of token tiles, columns of a band one after another.
  __device__ Tile tile_of(int index) const {
    const int per_band = kBand * a.column_tiles;
    const int band = index / per_band, inside = index % per_band;
    const int tiles = min(kBand, a.token_tiles - band * kBand);
    return {(band * kBand + inside % tiles) * Groups * 64, inside / tiles * Columns};
  }
  __device__ int tiles() const { return a.token_tiles * a.column_tiles; }

  __device__ void load_weights(const device::TensorMap& w, Tile tile, int block, int stage) {
    s.full[stage].arrive_expect(kBytes);
    device::box_load(
        s.w[stage], w, block * kDepth, tile.column, s.full[stage], device::kEvictNormal
    );
  }
  __device__ void load_tokens(const device::TensorMap& x, Tile tile, int block, int stage) {
    device::box_load(s.x[stage], x, block * kDepth, tile.token, s.full[stage], device::kEvictLast);
  }

  __device__ void produce(const device::TensorMap& x, const device::TensorMap& w) {
    const int first = static_cast<int>(blockIdx.x);
    const int ahead = min(Stages, a.blocks);
    for (int i = 0; i < ahead; ++i) load_weights(w, tile_of(first), i, i);
    device::launch_successor();
    device::wait_for_predecessor();
    for (int i = 0; i < ahead; ++i) load_tokens(x, tile_of(first), i, i);
    Ring<Stages> ring;
    for (int i = 0; i < ahead; ++i) ring.advance();
    for (int t = first; t < tiles(); t += static_cast<int>(gridDim.x)) {
      const Tile tile = tile_of(t);
      for (int block = t == first ? ahead : 0; block < a.blocks; ++block) {
        s.empty[ring.stage].wait(ring.empty_parity());
        load_weights(w, tile, block, ring.stage);
        load_tokens(x, tile, block, ring.stage);
        ring.advance();
      }
    }
  }

  __device__ void consume() {
    const int group = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
    const uint64_t x = device::operand_descriptor(s.x[0] + group * 64 * kRowBytes);
    const uint64_t w = device::operand_descriptor(s.w[0]);
    constexpr uint64_t kTokenStep = Groups * 64 * kRowBytes / 16;
    constexpr uint64_t kWeightStep = Columns * kRowBytes / 16;
    device::wait_for_predecessor();
    Ring<Stages> ring;
    float sum[kSums];
    for (int t = static_cast<int>(blockIdx.x); t < tiles(); t += static_cast<int>(gridDim.x)) {
      int before = 0;  // the slot whose products are under way
      for (int block = 0; block < a.blocks; ++block) {
        s.full[ring.stage].wait(ring.full_parity());
        const uint64_t x_slot = x + static_cast<uint64_t>(ring.stage) * kTokenStep;
        const uint64_t w_slot = w + static_cast<uint64_t>(ring.stage) * kWeightStep;
        device::pin(sum);
        device::wgmma_fence();
#pragma unroll
        for (int k = 0; k < kDepth / 16; ++k) {
          const auto step = static_cast<uint64_t>(2 * k);
          device::mma_bf16(sum, x_slot + step, w_slot + step, block > 0 || k > 0);
        }
        device::wgmma_commit();
        device::wgmma_wait<1>();
        if (block > 0 && threadIdx.x % 32 == 0) s.empty[before].arrive();
        before = ring.stage;
        ring.advance();
      }
      device::wgmma_wait<0>();
      device::pin(sum);
      if (threadIdx.x % 32 == 0) s.empty[before].arrive();
      const Tile tile = tile_of(t);
      if (a.boxes) {
        store_boxes(sum, group, tile.token + group * 64, tile.column);
      } else {
        store(sum, tile.token + group * 64, tile.column);
      }
    }
    device::wait_stores_read<0>();
  }

  // Through the boxes in turn; the copy engine drops what lies outside y.
  __device__ void store_boxes(float (&sum)[kSums], int group, int token, int column) {
    const bool leader = threadIdx.x % 128 == 0;
    if (a.bias != nullptr) add_bias(sum, column);
#pragma unroll
    for (int box = 0; box < Columns / 64; ++box) {
      uint8_t* image = s.y[group][box % Storage::kBoxes];
      if (leader) device::wait_stores_read<Storage::kBoxes - 1>();
      device::await_turn(1 + group, 128);
      device::fill_box(image, sum + 32 * box);
      device::fence_shared_for_async();
      device::await_turn(1 + group, 128);
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
    for (int j = 0; j < Columns / 8; ++j) {
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

template <int Groups, int Columns, int Stages>
__global__ void __launch_bounds__(Groups * 128 + 32, 1) multiply(
    const Arguments a,
    const __grid_constant__ device::TensorMap x,
    const __grid_constant__ device::TensorMap w,
    const __grid_constant__ device::TensorMap y
) {
  extern __shared__ __align__(1024) uint8_t memory[];
  using Work = Product<Groups, Columns, Stages>;
  auto& s = *reinterpret_cast<typename Work::Storage*>(memory);
  Work work{a, s, y};
  const bool producer = threadIdx.x == Work::kConsumers;
  if (producer) {
    device::prefetch_map(x);
    device::prefetch_map(w);
    for (int i = 0; i < Stages; ++i) {
      s.full[i].init(1);
      s.empty[i].init(Work::kConsumers / 32);
    }
    device::fence_barrier_init();
  }
  __syncthreads();
  if (producer) {
    work.produce(x, w);
  } else if (threadIdx.x < Work::kConsumers) {
    work.consume();
  }
}

// Resident: CTAs of a multiprocessor.
template <int Groups, int Columns, int Stages, int Resident>
void run(Exec& exec, const Bf16Gemm& args) {
  const int64_t M = args.x.dim(0), K = args.x.dim(1), N = args.y.dim(1);
  const auto tiles = [](int64_t n, int64_t each) {
    return static_cast<int>((n + each - 1) / each);
  };
  const Arguments a{
      .bias = args.bias.defined() ? args.bias.data : nullptr,
      .y = args.y.data,
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(M),
      .N = static_cast<int>(N),
      .blocks = tiles(K, kDepth),
      .token_tiles = tiles(M, Groups * 64),
      .column_tiles = tiles(N, Columns),
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
  const cuda::TensorMap x = map(args.x, M, Groups * 64);
  const cuda::TensorMap y =
      a.boxes ? cuda::make_matrix_map(
                    args.y.data, DType::bf16, M, N, 2 * a.y_stride, 64, 64, cuda::Swizzle::bytes128
                )
              : x;
  const int sms = cuda::multiprocessors(exec.device.index);
  cuda::launch(
      exec,
      "bf16_gemm",
      {.grid =
           dim3(static_cast<unsigned>(std::min(a.token_tiles * a.column_tiles, Resident * sms))),
       .threads = Groups * 128 + 32,
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<Groups, Columns, Stages>))},
      multiply<Groups, Columns, Stages>,
      a,
      x,
      map(args.weight, N, Columns),
      y
  );
}

}  // namespace

bool bf16_gemm_takes_tile(const Exec&, const Bf16Gemm& args) {
  const auto aligned = [](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) % 8 == 0;
  };
  const int64_t y_bytes = info(args.y.dtype).block_bytes;
  return args.x.dtype == DType::bf16 && args.weight.dtype == DType::bf16 && aligned(args.x) &&
         aligned(args.weight) && reinterpret_cast<uintptr_t>(args.y.data) % (2 * y_bytes) == 0;
}

// Few tokens: narrow tiles, so that all multiprocessors read weights.
void bf16_gemm_tile_sm90(Exec& exec, const Bf16Gemm& args) {
  const int64_t M = args.x.dim(0);
  if (M <= 64) return run<1, 64, 6, 2>(exec, args);
  if (M <= 128) return run<2, 64, 4, 2>(exec, args);
  run<2, 256, 4, 1>(exec, args);
}

}  // namespace fathom::ops
