// The tile of FP8 products for many tokens, that of fp8_block_gemm's and w8a8_gemm's rows: scales
// are of blocks or of channels. docs/kernels/fp8_block_gemm.md.
//
// A tile of y is 128 or 256 tokens x Columns outputs: two warpgroups, each of one or two halves of
// 64 tokens. The tokens are WGMMA's operand A, the weights its operand B. A block of 128 k is, for
// each half, four products of 32 into a fresh fragment, then one operation a sum: of blocks an FMA
// with the product of two scales, one of a token, one of the tile's weights; of channels an
// addition, for tensor cores keep about 14 bits, and both scales come last. CTAs are persistent; a
// producer thread keeps a ring of blocks full across tiles, and a tile's outputs leave through
// shared memory beside the next tile's products. Two CTAs of a cluster may share their weights:
// each brings half of them to both (Pair). Where whole tiles would leave the last wave mostly idle,
// CTAs take equal runs of the first tiles' blocks (`tile_plan.h`): who begins a tile adds the sums
// of those who went on with it.
#pragma once

#include <string_view>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/fragment_box.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/fp8_tile_scales.cuh"
#include "fathom/ops/gemm/tile_sharing.cuh"
#include "fathom/ops/gemm/weight_tiles.h"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Ring;
using device::Vec;

template <int Halves, int Columns>
struct SharedStorage {
  static constexpr int kTokens = kGroups * Halves * 64;
  static constexpr int kStages = Halves == 1 ? 6 : (Columns == 64 ? 5 : 4);
  uint8_t x[kStages][kTokens * kTileRowBytes];
  uint8_t w[kStages][Columns * kTileRowBytes];
  uint8_t y[kGroups][Columns / 64][device::kBoxBytes];
  Barrier full[kStages], empty[kStages];
};

template <Fp8Scales Scales, int Halves, int Columns, int Pair>
struct Product {
  using Storage = SharedStorage<Halves, Columns>;
  static constexpr int kSums = Columns / 2;  // of a thread and half
  static constexpr int kStages = Storage::kStages;
  using Sharing = TileSharing<kGroups * Pair, Halves, kSums>;
  using Sums = typename Sharing::Sums;

  const Arguments& a;
  Storage& s;
  const device::TensorMap& x;
  const device::TensorMap& y;

  // Of this CTA among those that share weights, and of those together among all.
  __device__ int rank() const { return static_cast<int>(blockIdx.x) % Pair; }
  __device__ int worker() const { return static_cast<int>(blockIdx.x) / Pair; }
  __device__ int first_token(const TilePiece& p) const {
    return a.plan.token(p.tile) + rank() * Storage::kTokens;
  }

  // The tiles of weights that this CTA brings of each block: all, or those of its turn in a pair.
  struct WeightTiles {
    static constexpr int kCount = Columns / 64 / Pair;
    const uint8_t* first[kCount];  // block 0

    __device__ WeightTiles(const Arguments& a, const TilePiece& p, int rank) {
      const int tile = a.plan.column(p.tile) / 64, last = (a.N + 63) / 64 - 1;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        // Beyond the last tile the last one is read again; its outputs are not stored.
        const int64_t source = min(tile + i * Pair + rank, last);
        first[i] = a.w + source * a.plan.blocks * kTileBytes;
      }
    }
  };

  __device__ void load_weights(const WeightTiles& from, int block, int stage) {
    s.full[stage].arrive_expect(sizeof(s.x[0]) + sizeof(s.w[0]));
#pragma unroll
    for (int i = 0; i < WeightTiles::kCount; ++i) {
      const uint8_t* source = from.first[i] + int64_t{block} * kTileBytes;
      uint8_t* to = s.w[stage] + (i * Pair + rank()) * kTileBytes;
      if constexpr (Pair == 2) {
        device::bulk_load_multicast(
            to, source, kTileBytes, s.full[stage], 0b11, device::kEvictNormal
        );
      } else {
        device::bulk_load(to, source, kTileBytes, s.full[stage], device::kEvictNormal);
      }
    }
  }

  // The first slots get their weights before the predecessor has ended.
  __device__ void produce() {
    const int cta = worker();
    int ahead = 0;  // slots whose weights are on their way
    a.plan.for_each_piece(cta, [&](const TilePiece& p) {
      if (ahead == kStages) return;
      const WeightTiles from(a, p, rank());
      for (int block = p.first; block < p.last && ahead < kStages; ++block, ++ahead)
        load_weights(from, block, ahead);
    });
    device::launch_successor();
    device::wait_for_predecessor();
    Ring<kStages> ring;
    int slot = 0;
    a.plan.for_each_piece(cta, [&](const TilePiece& p) {
      const WeightTiles from(a, p, rank());
      const int token = first_token(p);
      for (int block = p.first; block < p.last; ++block, ++slot) {
        if (slot >= ahead) {
          s.empty[ring.stage].wait(ring.empty_parity());
          load_weights(from, block, ring.stage);
        }
        device::box_load(
            s.x[ring.stage], x, block * 128, token, s.full[ring.stage], device::kEvictNormal
        );
        ring.advance();
      }
    });
  }

  __device__ void consume() {
    const Place<Halves> place;
    Ring<kStages> ring;
    device::wait_for_predecessor();
    a.plan.for_each_piece(worker(), [&](const TilePiece& p) {
      Sums sum;
#pragma unroll
      for (int h = 0; h < Halves; ++h) {
#pragma unroll
        for (int i = 0; i < kSums; ++i) sum[h][i] = 0;
      }
      multiply(p, place, ring, sum);
      const Sharing sharing{
          a.plan,
          a.partial,
          a.arrivals,
          rank() * kGroups + place.group,
          kStore + place.group,
          true,
          worker()};
      if (p.first > 0) return sharing.give(sum);
      if (p.last < a.plan.blocks) sharing.add(p.tile, sum);
      if constexpr (Scales == Fp8Scales::channels) scale_channels(a, p, first_token(p), place, sum);
      store(p, place, sum);
    });
    device::wait_stores_read<0>();
  }

  __device__ void multiply(
      const TilePiece& p, const Place<Halves>& place, Ring<kStages>& ring, Sums& sum
  ) {
    constexpr bool kOfBlocks = Scales == Fp8Scales::blocks;
    const uint64_t x_rows = device::operand_descriptor(s.x[0] + place.first_token() * 128);
    const uint64_t w_rows = device::operand_descriptor(s.w[0]);
    const ScaleRows<Halves> rows(a, p, first_token(p) + place.first_token() + place.row, place.t);
    QuadScales<Halves> now, next;
    if constexpr (kOfBlocks) {
      rows.fetch(now, p.first);
      rows.fetch(next, p.first + kQuad);
      now.multiply();
    }
    int block = p.first;
    uint64_t x_tile, w_tile;
    const auto take_slot = [&] {
      x_tile = device::advanced(x_rows, ring.stage * sizeof(s.x[0]) / 16);
      w_tile = device::advanced(w_rows, ring.stage * sizeof(s.w[0]) / 16);
    };
    // Returns whether the next block is there. What that one needs but its own products is done
    // beside this one's: between two products stand the additions alone, in one branch.
    const auto step = [&] {
      const int stage = ring.stage;
      float product[kSums], scale[Halves][2];
      bool ready = false;
#pragma unroll
      for (int h = 0; h < Halves; ++h) {
        start_products(product, device::advanced(x_tile, static_cast<uint32_t>(h) * 512), w_tile);
        if (kOfBlocks && h == 0) {
#pragma unroll
          for (int i = 0; i < 2 * Halves; ++i)
            scale[i / 2][i % 2] =
                __shfl_sync(0xffffffffu, now.x[i / 2][i % 2], block - p.first, kQuad);
        }
        if (h + 1 == Halves) {
          ring.advance();
          take_slot();
          ++block;
          if (kOfBlocks && (block - p.first) % kQuad == 0) {
            now = next;
            now.multiply();
            rows.fetch(next, block + kQuad);
          }
        }
        device::wgmma_wait<0>();
        device::pin(product);
        if (h + 1 == Halves) {
          let_go(stage);
          ready = s.full[ring.stage].passed(ring.full_parity());
        }
        add(sum[h], product, scale[h]);
      }
      return ready & (block < p.last);
    };
    take_slot();
    while (block < p.last) {
      s.full[ring.stage].wait(ring.full_parity());
      while (step()) {
      }
    }
  }

  // Of a block and half.
  __device__ static void start_products(float (&product)[kSums], uint64_t x_tile, uint64_t w_tile) {
    device::wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) {
      device::mma_e4m3(
          product, device::advanced(x_tile, 2 * k), device::advanced(w_tile, 2 * k), k > 0
      );
    }
    device::wgmma_commit();
  }

  __device__ static void add(
      float (&sum)[kSums], const float (&product)[kSums], const float (&scale)[2]
  ) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      if constexpr (Scales == Fp8Scales::blocks) {
        sum[i] = fmaf(scale[i / 2 % 2], product[i], sum[i]);
      } else {
        sum[i] += product[i];
      }
    }
  }

  // A slot is free for the copies of every CTA that writes to it.
  __device__ void let_go(int stage) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (Pair > 1 && lane < Pair) s.empty[stage].let_go_at(static_cast<uint32_t>(lane));
    if (Pair == 1 && lane == 0) s.empty[stage].arrive();
  }

  __device__ void store(const TilePiece& p, const Place<Halves>& place, const Sums& sum) {
    const int column = a.plan.column(p.tile);
#pragma unroll
    for (int h = 0; h < Halves; ++h) {
      const int token = first_token(p) + place.first_token() + 64 * h;
      if (a.boxes) {
        store_boxes(place, sum[h], token, column);
      } else {
        store_elements(place, sum[h], token, column);
      }
    }
  }

  // Through this warpgroup's boxes in shared memory; the copy engine drops what lies outside y.
  __device__ void store_boxes(
      const Place<Halves>& place, const float (&sum)[kSums], int token, int column
  ) {
    const bool leader = threadIdx.x % 128 == 0;
    if (leader) device::wait_stores_read<0>();
    device::named_barrier(kStore + place.group, 128);
#pragma unroll
    for (int box = 0; box < Columns / 64; ++box)
      device::fill_box(s.y[place.group][box], sum + 32 * box);
    device::fence_shared_for_async();
    device::named_barrier(kStore + place.group, 128);
    if (!leader) return;
#pragma unroll
    for (int box = 0; box < Columns / 64; ++box) {
      if (column + 64 * box < a.N && token < a.M)
        device::box_store(y, s.y[place.group][box], column + 64 * box, token);
    }
    device::commit_stores();
  }

  __device__ void store_elements(
      const Place<Halves>& place, const float (&sum)[kSums], int token, int column
  ) const {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      const int m = token + place.row + i / 2 % 2 * 8, n = column + i / 4 * 8 + 2 * place.t + i % 2;
      if (m >= a.M || n >= a.N) continue;
      const int64_t at = m * a.y_stride + n;
      a.wide ? Vec<float>::store(static_cast<float*>(a.y) + at, sum[i])
             : Vec<__nv_bfloat16>::store(static_cast<__nv_bfloat16*>(a.y) + at, sum[i]);
    }
  }
};

template <Fp8Scales Scales, int Halves, int Columns, int Pair>
__global__ void __launch_bounds__(kThreads, 1) multiply(
    const Arguments a,
    const __grid_constant__ device::TensorMap x,
    const __grid_constant__ device::TensorMap y
) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<Halves, Columns>*>(memory);
  Product<Scales, Halves, Columns, Pair> work{a, s, x, y};
  if (threadIdx.x == kConsumers) {
    device::prefetch_map(x);
    for (int i = 0; i < work.kStages; ++i) {
      s.full[i].init(1);
      s.empty[i].init(kConsumers / 32 * Pair);
    }
    device::fence_barrier_init();
  }
  Pair > 1 ? device::cluster_barrier() : __syncthreads();
  if (threadIdx.x < kConsumers) {
    device::take_registers<232>();
    work.consume();
  } else {
    device::release_registers<40>();
    if (threadIdx.x == kConsumers) {
      work.produce();
    } else {
      device::wait_for_predecessor();
    }
    __syncwarp();
  }
  // No CTA ends while the other one may still write to it.
  if (Pair > 1) device::cluster_barrier();
}

// A product of codes: x [M, K], w in tiles; scales as Scales says; bias may be undefined.
struct Fp8Tiles {
  std::string_view op;
  Tensor x, x_scale;
  QTensor w;
  Tensor bias, y;
};

template <Fp8Scales Scales, int Halves, int Columns, int Pair>
void run(Exec& exec, const Fp8Tiles& args, const TilePlan& plan) {
  using Storage = SharedStorage<Halves, Columns>;
  const int64_t M = args.x.dim(0), N = args.y.dim(1), K = args.x.dim(1);
  Workspace::Mark mark(*exec.workspace);
  Arguments a{
      .w = args.w.data.as<uint8_t>(),
      .w_scale = args.w.scale.as<float>(),
      .x_scale = args.x_scale.as<float>(),
      .bias = args.bias.data,
      .y = args.y.data,
      .partial = nullptr,
      .arrivals = exec.semaphores,
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(M),
      .N = static_cast<int>(N),
      .x_scale_columns = static_cast<int>(args.x_scale.dim(-1)),
      .boxes = args.y.dtype == DType::bf16 && args.y.stride(0) % 8 == 0 &&
               reinterpret_cast<uintptr_t>(args.y.data) % 16 == 0,
      .wide = args.y.dtype == DType::f32,
      .wide_bias = args.bias.defined() && args.bias.dtype == DType::f32,
      .plan = plan,
  };
  if (plan.cut_tiles > 0) {
    const int64_t floats = int64_t{plan.ctas} * plan.tokens * plan.columns;
    a.partial = exec.workspace->alloc(DType::f32, {floats}).as<float>();
  }
  const cuda::TensorMap x = cuda::make_matrix_map(
      args.x.data, DType::u8, M, K, args.x.stride(0), Storage::kTokens, 128, cuda::Swizzle::bytes128
  );
  const cuda::TensorMap y =
      a.boxes ? cuda::make_matrix_map(
                    args.y.data, DType::bf16, M, N, 2 * a.y_stride, 64, 64, cuda::Swizzle::bytes128
                )
              : x;
  cuda::launch(
      exec,
      args.op,
      {.grid = dim3(static_cast<unsigned>(plan.ctas * Pair)),
       .threads = kThreads,
       .shared_bytes = sizeof(Storage),
       .cluster = Pair},
      multiply<Scales, Halves, Columns, Pair>,
      a,
      x,
      y
  );
}

// By the tile and the cut that end first.
template <Fp8Scales Scales>
void run_fp8_tiles(Exec& exec, const Fp8Tiles& args) {
  const TilePlan plan = plan_fp8_tiles(
      args.x.dim(0), args.y.dim(1), args.x.dim(1), cuda::multiprocessors(exec.device.index)
  );
  if (plan.cluster == 2) {
    run<Scales, 2, 128, 2>(exec, args, plan);
  } else if (plan.tokens == 128) {
    run<Scales, 1, 128, 1>(exec, args, plan);
  } else if (plan.columns == 64) {
    run<Scales, 2, 64, 1>(exec, args, plan);
  } else {
    run<Scales, 2, 128, 1>(exec, args, plan);
  }
}

}  // namespace
}  // namespace fathom::ops
