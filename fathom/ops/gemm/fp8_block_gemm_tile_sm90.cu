// fp8_block_gemm, row tile_sm90: many tokens (M > 128), the time is the tensor cores'.
// docs/kernels/fp8_block_gemm.md.
//
// A tile of y is 128 tokens x Columns outputs: two warpgroups of 64 tokens each, the tokens WGMMA's
// operand A, the weights its operand B. A block of 128 k is four products of 32 into a fresh
// fragment, then one FMA a sum with the product of the block's two scales: one of a token, one of
// the tile's weights. While one warpgroup adds, the other's products run. CTAs are persistent; a
// producer thread keeps a ring of blocks full across tiles.
// The two CTAs of a cluster take neighbouring tiles of tokens: each reads half of the weights for
// both, since 128 x 128 tiles alone ask L2 for more than it gives.
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/fp8_block_gemm_rows.h"
#include "fathom/ops/gemm/weight_tiles.h"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Ring;
using device::Vec;

constexpr int kGroups = 2;  // consumer warpgroups
constexpr int kTokens = kGroups * 64;
constexpr int kConsumers = kGroups * 128;
constexpr int kThreads = kConsumers + 128;  // registers move by warpgroups
constexpr int kCluster = 2;
constexpr int kStages = 6;

template <class Y>
struct Arguments {
  const uint8_t* w;
  const float* w_scale;
  const float* x_scale;
  Y* y;
  int64_t y_stride;
  int M, N;
  int blocks;  // of 128 k
  int x_scale_columns;
  int token_pairs, column_tiles;  // token_pairs: of kCluster token tiles
  bool wide_rows;                 // of y: at multiples of 16 bytes, N too
};

template <int Columns>
struct SharedStorage {
  uint8_t x[kStages][kTokens * kTileRowBytes];
  uint8_t w[kStages][Columns * kTileRowBytes];
  float x_scale[kStages][kTokens];
  Barrier full[kStages], empty[kStages];
};

struct Tile {
  int token, column;
};

template <int Columns, class Y>
struct Product {
  static constexpr int kSums = Columns / 2;
  static constexpr int kWeightTiles = Columns / 64;

  const Arguments<Y>& a;
  SharedStorage<Columns>& s;
  int rank;  // of this CTA in its cluster

  // f(tile) for the tiles of this CTA, the same number in both CTAs of a cluster.
  template <class F>
  __device__ void for_each_tile(F f) const {
    const int all = a.token_pairs * a.column_tiles;
    const int clusters = static_cast<int>(gridDim.x) / kCluster;
    for (int i = static_cast<int>(blockIdx.x) / kCluster; i < all; i += clusters) {
      const int pair = i % a.token_pairs, column = i / a.token_pairs;
      f(Tile{(pair * kCluster + rank) * kTokens, column * Columns});
    }
  }

  __device__ uint32_t scale_bytes(int token) const {
    return static_cast<uint32_t>(max(min(a.x_scale_columns - token, kTokens), 0)) * sizeof(float);
  }

  // This CTA's share of the weights, to both.
  __device__ void load_weights(const Tile& tile, int block, int stage) {
    s.full[stage].arrive_expect(
        static_cast<uint32_t>((Columns + kTokens) * kTileRowBytes) + scale_bytes(tile.token)
    );
    const int tiles = (a.N + 63) / 64;
    if constexpr (kWeightTiles == kCluster) {
      // Beyond the last tile the last one is read again; its outputs are not stored.
      const int64_t source = min(tile.column / 64 + rank, tiles - 1);
      device::bulk_load_multicast(
          s.w[stage] + rank * kTileBytes,
          a.w + (source * a.blocks + block) * kTileBytes,
          kTileBytes,
          s.full[stage],
          (1 << kCluster) - 1,
          device::kEvictNormal
      );
    } else {
      static_assert(kWeightTiles == 1);
      constexpr int kHalf = kTileBytes / kCluster;
      device::bulk_load_multicast(
          s.w[stage] + rank * kHalf,
          a.w + (int64_t{tile.column / 64} * a.blocks + block) * kTileBytes + rank * kHalf,
          kHalf,
          s.full[stage],
          (1 << kCluster) - 1,
          device::kEvictNormal
      );
    }
  }

  __device__ void load_activations(
      const device::TensorMap& x, const Tile& tile, int block, int stage
  ) {
    device::box_load(s.x[stage], x, block * 128, tile.token, s.full[stage], device::kEvictNormal);
    const uint32_t bytes = scale_bytes(tile.token);
    if (bytes == 0) return;
    device::bulk_load(
        s.x_scale[stage],
        a.x_scale + int64_t{block} * a.x_scale_columns + tile.token,
        bytes,
        s.full[stage],
        device::kEvictNormal
    );
  }

  // The first slots get their weights before the predecessor has ended.
  __device__ void produce(const device::TensorMap& x) {
    int ahead = 0;  // slots whose weights are on their way
    for_each_tile([&](const Tile& tile) {
      for (int block = 0; block < a.blocks && ahead < kStages; ++block, ++ahead)
        load_weights(tile, block, ahead);
    });
    device::launch_successor();
    device::wait_for_predecessor();
    Ring<kStages> ring;
    int slot = 0;
    for_each_tile([&](const Tile& tile) {
      for (int block = 0; block < a.blocks; ++block, ++slot) {
        if (slot >= ahead) {
          s.empty[ring.stage].wait(ring.empty_parity());
          load_weights(tile, block, ring.stage);
        }
        load_activations(x, tile, block, ring.stage);
        ring.advance();
      }
    });
  }

  __device__ void release(int stage) {
    if (threadIdx.x % 32 != 0) return;
#pragma unroll
    for (int r = 0; r < kCluster; ++r) s.empty[stage].arrive_at(static_cast<uint32_t>(r));
  }

  __device__ void consume() {
    const int thread = static_cast<int>(threadIdx.x);
    const int group = thread / 128, warp = thread % 128 / 32, g = thread % 32 / 4;
    const uint64_t x = device::operand_descriptor(s.x[0] + group * kTileBytes);
    const uint64_t w = device::operand_descriptor(s.w[0]);
    const int row = group * 64 + warp * 16 + g;  // and 8 further
    device::wait_for_predecessor();
    Ring<kStages> ring;
    for_each_tile([&](const Tile& tile) {
      float sum[kSums], product[kSums];
#pragma unroll
      for (int i = 0; i < kSums; ++i) sum[i] = 0;
      const float* w_scale = a.w_scale + int64_t{tile.column / 128} * a.blocks;
      float next_scale = __ldg(w_scale);
      for (int block = 0; block < a.blocks; ++block) {
        const int stage = ring.stage;
        s.full[stage].wait(ring.full_parity());
        device::wgmma_fence();
        device::mma_e4m3_tile(
            product,
            x + static_cast<uint64_t>(stage * (kTokens * static_cast<int>(kTileRowBytes) / 16)),
            w + static_cast<uint64_t>(stage * (Columns * static_cast<int>(kTileRowBytes) / 16))
        );
        device::wgmma_commit();
        const float scale = next_scale;
        next_scale = __ldg(w_scale + min(block + 1, a.blocks - 1));
        const float low = scale * s.x_scale[stage][row], high = scale * s.x_scale[stage][row + 8];
        device::wgmma_wait<0>();
        device::pin(product);
        release(stage);
        ring.advance();
#pragma unroll
        for (int i = 0; i < kSums; ++i)
          sum[i] = fmaf(i / 2 % 2 == 0 ? low : high, product[i], sum[i]);
      }
      store(sum, tile.token + row, tile.column);
    });
  }

  // Rows `token` and `token + 8`, columns 8 j + 2 t and the next from `column` on.
  __device__ void store(const float (&sum)[kSums], int token, int column) const {
    const int t = static_cast<int>(threadIdx.x) % 4;
    if (a.wide_rows && sizeof(Y) == 2) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Y* y = a.y + int64_t{token + 8 * half} * a.y_stride + column;
#pragma unroll
        for (int j = 0; j < Columns / 8; j += 4) {
          uint32_t pair[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int at = 4 * (j + i) + 2 * half;
            pair[i] = device::pack_bf16(sum[at], sum[at + 1]);
          }
          const uint4 octet = gather_octet(pair, t);
          if (token + 8 * half < a.M && column + 8 * (j + t) < a.N)
            *reinterpret_cast<uint4*>(y + 8 * (j + t)) = octet;
        }
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      const int m = token + i / 2 % 2 * 8, n = column + i / 4 * 8 + 2 * t + i % 2;
      if (m < a.M && n < a.N) Vec<Y>::store(a.y + m * a.y_stride + n, sum[i]);
    }
  }

  // Of four octets of columns, whose pairs lie one in each of four lanes, lane t gets octet t.
  __device__ static uint4 gather_octet(const uint32_t (&pair)[4], int t) {
    uint32_t out[4] = {};
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int other = t ^ r;
      uint32_t give = pair[0];
#pragma unroll
      for (int i = 1; i < 4; ++i) give = other == i ? pair[i] : give;
      const uint32_t got = __shfl_xor_sync(0xffffffffu, give, r);
#pragma unroll
      for (int i = 0; i < 4; ++i) out[i] = other == i ? got : out[i];
    }
    return {out[0], out[1], out[2], out[3]};
  }
};

template <int Columns, class Y>
__global__ void __launch_bounds__(kThreads, 1)
    multiply(const Arguments<Y> a, const __grid_constant__ device::TensorMap x) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<Columns>*>(memory);
  Product<Columns, Y> work{a, s, static_cast<int>(device::cluster_rank())};
  if (threadIdx.x == kConsumers) {
    device::prefetch_map(x);
    for (int i = 0; i < kStages; ++i) {
      s.full[i].init(1);
      s.empty[i].init(kCluster * kConsumers / 32);
    }
    device::fence_barrier_init();
  }
  device::cluster_barrier();  // the peer's barriers are there too
  if (threadIdx.x < kConsumers) {
    device::take_registers<232>();
    work.consume();
  } else {
    device::release_registers<40>();
    if (threadIdx.x == kConsumers) {
      work.produce(x);
    } else {
      device::wait_for_predecessor();
    }
    __syncwarp();
  }
  device::cluster_barrier();  // the peer writes to this CTA's memory no more
}

template <int Columns, class Y>
void run(Exec& exec, const Fp8BlockGemm& args) {
  const int64_t M = args.x.dim(0), N = args.y.dim(1), K = args.x.dim(1);
  const auto pieces = [](int64_t n, int64_t each) {
    return static_cast<int>((n + each - 1) / each);
  };
  const int64_t y_bytes = sizeof(Y);
  const Arguments<Y> a{
      .w = args.w.data.as<uint8_t>(),
      .w_scale = args.w.scale.as<float>(),
      .x_scale = args.x_scale.as<float>(),
      .y = static_cast<Y*>(args.y.data),
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(M),
      .N = static_cast<int>(N),
      .blocks = static_cast<int>(K / 128),
      .x_scale_columns = static_cast<int>(args.x_scale.dim(1)),
      .token_pairs = pieces(M, kTokens * kCluster),
      .column_tiles = pieces(N, Columns),
      .wide_rows = N % 8 == 0 && reinterpret_cast<uintptr_t>(args.y.data) % 16 == 0 &&
                   args.y.stride(0) * y_bytes % 16 == 0,
  };
  const cuda::TensorMap x = cuda::make_matrix_map(
      args.x.data, DType::u8, M, K, args.x.stride(0), kTokens, 128, cuda::Swizzle::bytes128
  );
  const int clusters =
      std::min(a.token_pairs * a.column_tiles, cuda::multiprocessors(exec.device.index) / kCluster);
  cuda::launch(
      exec,
      "fp8_block_gemm",
      {.grid = dim3(static_cast<unsigned>(clusters * kCluster)),
       .threads = kThreads,
       .shared_bytes = sizeof(SharedStorage<Columns>),
       .cluster = kCluster},
      multiply<Columns, Y>,
      a,
      x
  );
}

// Wide tiles where they leave no more of the chip idle than narrow ones, which read more.
bool narrow_is_faster(const Exec& exec, int64_t M, int64_t N) {
  constexpr double kNarrowCost = 1.4;
  const int64_t clusters = cuda::multiprocessors(exec.device.index) / kCluster;
  const int64_t pairs = (M + kTokens * kCluster - 1) / (kTokens * kCluster);
  const auto time = [&](int64_t columns) {
    const int64_t tiles = pairs * ((N + columns - 1) / columns);
    return static_cast<double>((tiles + clusters - 1) / clusters * columns);
  };
  return kNarrowCost * time(64) < time(128);
}

template <class Y>
void run_by_columns(Exec& exec, const Fp8BlockGemm& args) {
  narrow_is_faster(exec, args.x.dim(0), args.y.dim(1)) ? run<64, Y>(exec, args)
                                                       : run<128, Y>(exec, args);
}

}  // namespace

bool fp8_block_gemm_takes_tile(const Exec&, const Fp8BlockGemm& args) {
  return args.w.data.dtype == DType::f8e4m3x64 && args.x_scale.defined() && args.x.dim(0) > 0 &&
         args.x.stride(0) % 16 == 0 && reinterpret_cast<uintptr_t>(args.x.data) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(args.x_scale.data) % 16 == 0;
}

void fp8_block_gemm_tile_sm90(Exec& exec, const Fp8BlockGemm& args) {
  args.y.dtype == DType::f32 ? run_by_columns<float>(exec, args)
                             : run_by_columns<__nv_bfloat16>(exec, args);
}

}  // namespace fathom::ops
