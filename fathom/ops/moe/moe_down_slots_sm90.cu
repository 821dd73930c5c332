// The last launches of grouped_moe, for many tokens: weighted products of h by place, then their
// sums by token, a slice of the outputs at a time, so that a slice's products stay in L2.
// docs/kernels/grouped_moe.md.
//
// A piece of work is an item and 128 outputs, all of K: two warpgroups of 64 outputs, of which one
// multiplies while the other stores. CTAs take pieces in turn, outputs fastest: an item's h stays
// in L2.
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/async_copy.cuh"
#include "fathom/ops/device/matrix_store.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/moe/moe_products.cuh"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Ring;
using device::Vec;

constexpr int kConsumers = 256;
constexpr int kOutputs = 128;  // of a piece
constexpr int kStages = 5;

struct Arguments {
  MoeRoutes routes;
  const float* h_scale;  // MoeHidden
  const uint8_t* w;
  const float* w_scale;  // [E][C / 128][blocks]
  __nv_bfloat16* slots;  // [places][slice]
  int C, blocks;
  int first, slice;  // outputs of this launch
};

template <int Tokens>
struct SharedStorage {
  uint8_t w[kStages][2][kTileBytes];
  uint8_t h[kStages][Tokens * kTileRowBytes];
  alignas(16) float scale[kStages][Tokens];
  alignas(16) __nv_bfloat16 out[2][Tokens][kOutputs / 2 + 8];  // of each warpgroup
  float w_scale[kStages];
  int rows[kStages];
  Barrier full[kStages], empty[kStages];
};

template <bool Fp8, int Tokens>
struct Slots {
  static constexpr int kSums = Tokens / 2;  // a thread

  const Arguments& a;
  SharedStorage<Tokens>& s;
  int pieces;  // of all CTAs

  __device__ int groups() const { return a.slice / kOutputs; }

  // By one thread.
  __device__ void produce(const device::TensorMap& h) {
    Ring<kStages> ring;
    int piece = static_cast<int>(blockIdx.x);
    const auto item_at = [&](int p) { return min(p, pieces - 1) / groups(); };
    int expert = __ldcg(a.routes.expert + item_at(piece));
    int rows = __ldcg(a.routes.rows + item_at(piece));
    for (; piece < pieces; piece += static_cast<int>(gridDim.x)) {
      const int item = item_at(piece), output = a.first + piece % groups() * kOutputs;
      const int64_t tile_row = int64_t{a.blocks} * kTileBytes;
      const uint8_t* w = a.w + (int64_t{expert} * (a.C / 64) + output / 64) * tile_row;
      const float* w_scale =
          a.w_scale + (int64_t{expert} * (a.C / kOutputs) + output / kOutputs) * a.blocks;
      const float* scale = a.h_scale + int64_t{item} * (Fp8 ? a.blocks : 1) * Tokens;
      const int rows_now = rows, next = item_at(piece + static_cast<int>(gridDim.x));
      expert = __ldcg(a.routes.expert + next);
      rows = __ldcg(a.routes.rows + next);
      for (int block = 0; block < a.blocks; ++block) {
        const int stage = ring.stage;
        s.empty[stage].wait(ring.empty_parity());
        s.rows[stage] = rows_now;
        s.full[stage].arrive_expect(
            2 * kTileBytes + Tokens * (kTileRowBytes + static_cast<uint32_t>(sizeof(float)))
        );
#pragma unroll
        for (int g = 0; g < 2; ++g) {
          device::bulk_load(
              s.w[stage][g],
              w + g * tile_row + block * kTileBytes,
              kTileBytes,
              s.full[stage],
              device::kEvictFirst
          );
        }
        device::box_load_3d(
            s.h[stage], h, 0, item * Tokens, block, s.full[stage], device::kEvictLast
        );
        device::bulk_load(
            s.scale[stage],
            scale + (Fp8 ? block * Tokens : 0),
            Tokens * sizeof(float),
            s.full[stage],
            device::kEvictLast
        );
        if (Fp8) device::copy_4_async(&s.w_scale[stage], w_scale + block);
        device::arrive_after_copies(s.full[stage]);
        ring.advance();
      }
    }
  }

  __device__ static void meet(int half) {
    if (half == 0) {
      device::named_barrier<1>(kConsumers / 2);
    } else {
      device::named_barrier<2>(kConsumers / 2);
    }
  }

  // 64 outputs of an item's rows, by one warpgroup.
  __device__ void store(const float (&sum)[kSums], int item, int rows, int group) {
    const int half = static_cast<int>(threadIdx.x) / 128,
              thread = static_cast<int>(threadIdx.x) % 128;
    const int lane = thread % 32;
    meet(half);  // the last piece has been read
    const int output = thread / 32 * 16 + lane / 8 % 2 * 8;
    const int row = lane / 16 * 8 + lane % 8;
#pragma unroll
    for (int j = 0; j < Tokens / 8; j += 2) {
      device::store_blocks_transposed(
          device::shared_address(&s.out[half][8 * j + row][output]),
          device::pack_bf16(sum[4 * j], sum[4 * j + 1]),
          device::pack_bf16(sum[4 * j + 2], sum[4 * j + 3]),
          device::pack_bf16(sum[4 * j + 4], sum[4 * j + 5]),
          device::pack_bf16(sum[4 * j + 6], sum[4 * j + 7])
      );
    }
    meet(half);
    constexpr int kVectors = kOutputs / 16;
    __nv_bfloat16* to =
        a.slots + int64_t{item} * Tokens * a.slice + group * kOutputs + half * kOutputs / 2;
    for (int v = thread; v < rows * kVectors; v += kConsumers / 2) {
      const int r = v / kVectors, at = v % kVectors * 8;
      __stcg(
          reinterpret_cast<uint4*>(to + int64_t{r} * a.slice + at),
          *reinterpret_cast<const uint4*>(&s.out[half][r][at])
      );
    }
  }

  __device__ void multiply(float (&sum)[kSums], int stage) {
    const int half = static_cast<int>(threadIdx.x) / 128;
    const int column = static_cast<int>(threadIdx.x) % 4 * 2;
    const uint64_t w = device::operand_descriptor(s.w[stage][half]);
    const uint64_t h = device::operand_descriptor(s.h[stage]);
    if constexpr (!Fp8) {
      device::wgmma_fence();
      mma_bf16_tile(sum, w, h, true);
      device::wgmma_commit();
      device::wgmma_wait<0>();
      device::pin(sum);
      return;
    }
    float products[kSums];
    device::wgmma_fence();
    device::mma_e4m3_tile(products, w, h);
    device::wgmma_commit();
    const float w_scale = s.w_scale[stage];
    device::wgmma_wait<0>();
    device::pin(products);
#pragma unroll
    for (int j = 0; j < Tokens / 8; ++j) {
      const float2 scale = *reinterpret_cast<const float2*>(&s.scale[stage][8 * j + column]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float both = w_scale * (i % 2 == 0 ? scale.x : scale.y);
        sum[4 * j + i] = fmaf(both, products[4 * j + i], sum[4 * j + i]);
      }
    }
  }

  // BF16: the routing weights, once for all of K.
  __device__ void weigh(float (&sum)[kSums], int stage) {
    const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum[i] *= s.scale[stage][i / 4 * 8 + column + i % 2];
  }

  __device__ void consume() {
    Ring<kStages> ring;
    for (int piece = static_cast<int>(blockIdx.x); piece < pieces;
         piece += static_cast<int>(gridDim.x)) {
      float sum[kSums];
#pragma unroll
      for (int i = 0; i < kSums; ++i) sum[i] = 0;
      int rows = 0;
      for (int block = 0; block < a.blocks; ++block) {
        s.full[ring.stage].wait(ring.full_parity());
        multiply(sum, ring.stage);
        if (!Fp8 && block + 1 == a.blocks) weigh(sum, ring.stage);
        rows = s.rows[ring.stage];
        __syncwarp();
        if (threadIdx.x % 32 == 0) s.empty[ring.stage].arrive();
        ring.advance();
      }
      store(sum, piece / groups(), rows, piece % groups());
    }
  }
};

template <bool Fp8, int Tokens>
__global__ void __launch_bounds__(kConsumers + 32, 1)
    products_by_place(const Arguments a, const __grid_constant__ device::TensorMap h) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<Tokens>*>(memory);
  const bool producer = threadIdx.x == kConsumers;
  if (producer) {
    device::prefetch_map(h);
    for (int i = 0; i < kStages; ++i) {
      s.full[i].init(2);
      s.empty[i].init(kConsumers / 32);
    }
    device::fence_barrier_init();
  }
  __syncthreads();
  device::wait_for_predecessor();
  device::launch_successor();
  Slots<Fp8, Tokens> work{a, s, __ldcg(a.routes.items) * (a.slice / kOutputs)};
  if (work.pieces == 0) return;
  if (producer) {
    work.produce(h);
  } else if (threadIdx.x < kConsumers) {
    work.consume();
  }
}

struct SumArguments {
  const __nv_bfloat16* slots;
  const int* place;
  const __nv_bfloat16* addend;
  __nv_bfloat16* y;
  int64_t addend_stride, y_stride;
  int T, k, first, slice;
};

constexpr int kSumThreads = 256;

// A thread per eight outputs of a token, slots in ascending order.
__global__ void __launch_bounds__(kSumThreads) sum_by_token(const SumArguments a) {
  device::launch_successor();
  device::wait_for_predecessor();
  constexpr int kSlots = 8;  // on their way together
  const int vectors = a.slice / 8;
  const int64_t i = int64_t{blockIdx.x} * kSumThreads + threadIdx.x;
  const int64_t token = i / vectors;
  if (token >= a.T) return;
  const int64_t column = (i - token * vectors) * 8;
  float sum[8] = {};
  for (int first = 0; first < a.k; first += kSlots) {
    uint4 part[kSlots];
#pragma unroll
    for (int j = 0; j < kSlots; ++j) {
      const int place = first + j < a.k ? __ldcg(a.place + token * a.k + first + j) : -1;
      part[j] =
          place < 0
              ? uint4{0, 0, 0, 0}
              : __ldcg(reinterpret_cast<const uint4*>(a.slots + int64_t{place} * a.slice + column));
    }
#pragma unroll
    for (int j = 0; j < kSlots; ++j) {
      float v[8];
      Vec<__nv_bfloat16>::unpack(part[j], v);
#pragma unroll
      for (int e = 0; e < 8; ++e) sum[e] += v[e];
    }
  }
  if (a.addend != nullptr) {
    float v[8];
    const __nv_bfloat16* addend = a.addend + token * a.addend_stride + a.first + column;
    Vec<__nv_bfloat16>::unpack(__ldcg(reinterpret_cast<const uint4*>(addend)), v);
#pragma unroll
    for (int e = 0; e < 8; ++e) sum[e] += v[e];
  }
  *reinterpret_cast<uint4*>(a.y + token * a.y_stride + a.first + column) =
      Vec<__nv_bfloat16>::pack(sum);
}

// Outputs of a slice: its products should stay in L2.
int slice_of(int64_t C, int64_t rows) {
  constexpr int64_t kResident = 24 << 20;
  const int64_t fitting = kResident / (rows * 2) / kOutputs * kOutputs;
  return static_cast<int>(std::clamp<int64_t>(fitting, kOutputs, C));
}

}  // namespace

void moe_down_by_place(
    Exec& exec, const GroupedMoe& args, const MoeRoutes& routes, const MoeHidden& h
) {
  const bool fp8 = args.quantise_activations;
  const int64_t T = args.x.dim(0), C = args.x.dim(1), I = args.down.data.dim(2);
  const int slice = slice_of(C, args.ids.elements());
  const cuda::TensorMap map = map_of_hidden(args, routes, h, 1);
  Arguments a{
      .routes = routes,
      .h_scale = h.scale,
      .w = static_cast<const uint8_t*>(args.down.data.data),
      .w_scale = static_cast<const float*>(args.down.scale.data),
      .slots = static_cast<__nv_bfloat16*>(
          exec.workspace->alloc(DType::bf16, {routes.places(), slice}).data
      ),
      .C = static_cast<int>(C),
      .blocks = static_cast<int>(I * (fp8 ? 1 : 2) / kTileRowBytes),
      .first = 0,
      .slice = slice,
  };
  const bool wide = routes.width == 128;
  const auto kernel = wide ? (fp8 ? products_by_place<true, 128> : products_by_place<false, 128>)
                           : (fp8 ? products_by_place<true, 64> : products_by_place<false, 64>);
  const size_t shared = wide ? sizeof(SharedStorage<128>) : sizeof(SharedStorage<64>);
  const cuda::LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(cuda::multiprocessors(exec.device.index))),
      .threads = kConsumers + 32,
      .shared_bytes = static_cast<int>(shared)};
  for (; a.first < C; a.first += a.slice) {
    a.slice = static_cast<int>(std::min<int64_t>(slice, C - a.first));
    cuda::launch(exec, "grouped_moe", shape, kernel, a, map);
    const SumArguments sum{
        .slots = a.slots,
        .place = routes.place,
        .addend = static_cast<const __nv_bfloat16*>(args.addend.data),
        .y = static_cast<__nv_bfloat16*>(args.y.data),
        .addend_stride = args.addend.defined() ? args.addend.stride(0) : 0,
        .y_stride = args.y.stride(0),
        .T = static_cast<int>(T),
        .k = static_cast<int>(args.ids.dim(1)),
        .first = a.first,
        .slice = a.slice,
    };
    const int64_t vectors = T * (a.slice / 8);
    const dim3 grid(static_cast<unsigned>((vectors + kSumThreads - 1) / kSumThreads));
    cuda::launch(exec, "grouped_moe", {.grid = grid, .threads = kSumThreads}, sum_by_token, sum);
  }
}

}  // namespace fathom::ops
