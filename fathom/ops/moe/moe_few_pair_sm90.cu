// grouped_moe, row few_sm90, first product of one or two tokens: as moe_few_gate_up_sm90.cu's, but
// a pair of CTAs, a cluster, has a piece, each half of the piece's K, and the first one adds their
// sums up in its own memory. Rows of x and their scales stand in shared memory from the beginning,
// and every warp finds its piece's expert and rows by itself: no barrier of the CTA lies between
// the choice's arrival and the first weights.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/moe/moe_few_pair_sm90.h"
#include "fathom/ops/moe/moe_hidden_sm90.cuh"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Ring;

constexpr int kTokens = FewRoutes::kTokens;  // WGMMA's width, and places of an item
constexpr int kRows = 2;                     // of an item that there can be
constexpr int kSums = kTokens / 2;           // of one weight tile, a thread
constexpr int kConsumers = 256;
constexpr int kLoaders = 128;                         // of rows of x
constexpr int kThreads = kConsumers + kLoaders + 32;  // and a warp that loads weights
constexpr int kStages = 3;
constexpr int kMostUnits = 16;           // blocks of K of a CTA
constexpr int kCtas = 2;                 // of a cluster
constexpr int kOwners = kConsumers / 4;  // threads that hold sums of the first two rows
constexpr float kEps = 1e-10f;

// A pair's piece: an expert and its rows, and which of its channels.
struct Piece {
  int item, expert;
  int token[kRows];  // -1: none
  float weight[kRows];
};

template <bool Fp8>
struct SharedStorage {
  static constexpr int kRowBytes = HiddenStage<Fp8, kTokens>::kRowBytes;
  uint8_t w[kStages][4][kTileBytes];  // gate and up of the first warpgroup, of the second
  uint8_t x[kMostUnits][kTokens * kTileRowBytes];
  float4 part[kCtas][2][kOwners];  // of both CTAs, in the first one's memory
  float x_scale[kMostUnits][kTokens];
  float w_scale[kMostUnits][2];  // gate's, up's
  HiddenStage<Fp8, kTokens> hidden;
  Barrier full[kStages], empty[kStages], rows;
};

// The item-th expert, in ascending order, and its rows, as FewRoutes has them; expert -1 where
// there are not so many. By a warp.
__device__ Piece find_piece(const MoeChoice& c, int item) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const SlotRoute slot(c);
  const bool opens = (slot.opens >> lane & 1) != 0;
  const uint32_t found = __ballot_sync(device::kFullWarp, opens && slot.rank == item);
  const int first = found == 0 ? 0 : __ffs(static_cast<int>(found)) - 1;
  uint32_t rows = __shfl_sync(device::kFullWarp, slot.same, first);
  Piece piece{.item = item, .expert = __shfl_sync(device::kFullWarp, slot.id, first)};
  if (found == 0) piece.expert = -1;
#pragma unroll
  for (int r = 0; r < kRows; ++r, rows &= rows - 1) {
    const int at = rows == 0 ? 0 : __ffs(static_cast<int>(rows)) - 1;
    const int token = __shfl_sync(device::kFullWarp, slot.token, at);
    const float weight = __shfl_sync(device::kFullWarp, slot.weight, at);
    piece.token[r] = rows == 0 ? -1 : token;
    piece.weight[r] = rows == 0 ? 0 : weight;
  }
  return piece;
}

template <bool Fp8>
struct GateUp {
  using Storage = SharedStorage<Fp8>;

  const FewPairs& a;
  Storage& s;
  Piece piece;
  int rank, group, groups, begin, units;  // units: blocks of K from `begin` on

  __device__ GateUp(const FewPairs& arguments, Storage& storage) : a(arguments), s(storage) {
    groups = a.I / kHiddenChannels;
    rank = static_cast<int>(device::cluster_rank());
    const int number = static_cast<int>(blockIdx.x) / kCtas, item = number / groups;
    group = number - item * groups;
    begin = a.blocks * rank / kCtas;
    units = a.blocks * (rank + 1) / kCtas - begin;
    piece = find_piece(a.choice, item);
  }

  // By one thread.
  __device__ void produce_weights() {
    const int tiles = 2 * a.I / 64;
    const int64_t tile_row = int64_t{a.blocks} * kTileBytes;
    const int64_t tile = int64_t{piece.expert} * tiles + group * 2;
    const uint8_t* w = a.w + tile * tile_row + begin * kTileBytes;
    Ring<kStages> ring;
    for (int unit = 0; unit < units; ++unit, w += kTileBytes) {
      const int stage = ring.stage;
      s.empty[stage].wait(ring.empty_parity());
      s.full[stage].arrive_expect(4 * kTileBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint8_t* from = w + (i / 2 + i % 2 * (tiles / 2)) * tile_row;
        device::bulk_load(s.w[stage][i], from, kTileBytes, s.full[stage], device::kEvictNormal);
      }
      ring.advance();
    }
  }

  // BF16: eight threads copy 128 bytes.
  __device__ void copy_rows(int thread) {
    const int chunk = thread % 8;
#pragma unroll 1
    for (int i = thread / 8; i < units * kRows; i += kLoaders / 8) {
      const int unit = i / kRows, row = i % kRows,
                token = row == 0 ? piece.token[0] : piece.token[1];
      if (token < 0) continue;
      const uint8_t* from = a.x.rows + token * a.x.row_bytes + (begin + unit) * kTileRowBytes;
      *reinterpret_cast<uint4*>(s.x[unit] + row * kTileRowBytes + (chunk ^ row) * 16) =
          __ldcg(reinterpret_cast<const uint4*>(from + chunk * 16));
    }
  }

  // 16 threads quantise 128 values.
  __device__ void quantise_rows(int thread) {
    const int lane = thread % 16;
    const uint32_t half = 0xffffu << thread % 32 / 16 * 16;  // the other one may have ended
#pragma unroll 1
    for (int i = thread / 16; i < units * kRows; i += kLoaders / 16) {
      const int row = i / units, unit = i - row * units;
      const int token = row == 0 ? piece.token[0] : piece.token[1];
      if (token < 0) continue;
      const uint8_t* from = a.x.rows + token * a.x.row_bytes + (begin + unit) * 256 + lane * 16;
      float v[8];
      device::Vec<__nv_bfloat16>::unpack(__ldcg(reinterpret_cast<const uint4*>(from)), v);
      float amax = kEps;
#pragma unroll
      for (int j = 0; j < 8; ++j) amax = fmaxf(amax, fabsf(v[j]));
#pragma unroll
      for (int d = 8; d > 0; d /= 2) amax = fmaxf(amax, __shfl_xor_sync(half, amax, d));
      const float scale = group_scale(amax, a.ue8m0);
      uint8_t* chunk = s.x[unit] + row * kTileRowBytes + ((lane / 2 ^ row) * 16);
      *reinterpret_cast<uint2*>(chunk + lane % 2 * 8) = quantise(v, scale);
      if (lane == 0) s.x_scale[unit][row] = scale;
    }
  }

  __device__ void load_rows() {
    const int thread = static_cast<int>(threadIdx.x) - kConsumers;
    if constexpr (Fp8) {
      if (thread < 2 * units) {
        const int64_t line = int64_t{piece.expert} * 2 * groups + thread % 2 * groups + group;
        s.w_scale[thread / 2][thread % 2] = __ldg(a.w_scale + line * a.blocks + begin + thread / 2);
      }
      quantise_rows(thread);
    } else {
      copy_rows(thread);
    }
    device::fence_shared_for_async();
    s.rows.arrive();
  }

  __device__ void multiply(float (&sum)[2][kSums], int stage, int unit) {
    const int half = static_cast<int>(threadIdx.x) / 128;
    multiply_gate_up<Fp8>(sum, s.w[stage] + 2 * half, s.x[unit], s.w_scale[unit], s.x_scale[unit]);
  }

  // This CTA's sums, to the first one's memory.
  __device__ void consume() {
    float sum[2][kSums] = {};
    s.rows.wait(0);
    Ring<kStages> ring;
#pragma unroll 1
    for (int unit = 0; unit < units; ++unit) {
      s.full[ring.stage].wait(ring.full_parity());
      multiply(sum, ring.stage, unit);
      if (threadIdx.x % 32 == 0) s.empty[ring.stage].arrive();
      ring.advance();
    }
    if (threadIdx.x % 4 != 0) return;  // of rows that there are not
    auto* part = const_cast<float4*>(device::peer_object(&s.part[rank][0][0], 0));
#pragma unroll
    for (int i = 0; i < 2; ++i)
      part[i * kOwners + threadIdx.x / 4] = {sum[i][0], sum[i][1], sum[i][2], sum[i][3]};
  }

  // By the first CTA's consumers, when both sums are there.
  __device__ void finish() {
    float sum[2][kSums] = {};
    if (threadIdx.x % 4 == 0) {
#pragma unroll
      for (int r = 0; r < kCtas; ++r) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float4 part = s.part[r][i][threadIdx.x / 4];
          sum[i][0] += part.x;
          sum[i][1] += part.y;
          sum[i][2] += part.z;
          sum[i][3] += part.w;
        }
      }
    }
    const int64_t row_bytes = int64_t{a.I} * (Fp8 ? 1 : 2);
    const HiddenPlace to{
        .h = a.h + piece.item * kTokens * row_bytes + group * Storage::kRowBytes,
        .row_bytes = row_bytes,
        .scale = a.h_scale + (int64_t{piece.item} * groups + group) * kTokens,
        .ue8m0 = a.ue8m0,
    };
    HiddenRows<Fp8, kTokens, kTokens>(s.hidden, to).finish(sum[0], sum[1], [&](int row) {
      return row == 0 ? piece.weight[0] : row == 1 ? piece.weight[1] : 0.0f;
    });
  }
};

template <bool Fp8>
__global__ void __launch_bounds__(kThreads, 1) gate_up_by_pairs(const FewPairs a) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<Fp8>*>(memory);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (int i = 0; i < kStages; ++i) {
      s.full[i].init(1);
      s.empty[i].init(kConsumers / 32);
    }
    s.rows.init(kLoaders);
    device::fence_barrier_init();
  }
  for (int i = thread; i < static_cast<int>(sizeof(s.x) / 16); i += kThreads)
    reinterpret_cast<uint4*>(s.x)[i] = {0, 0, 0, 0};
  for (int i = thread; i < kMostUnits * kTokens; i += kThreads) s.x_scale[0][i] = 0;
  device::fence_shared_for_async();
  device::cluster_barrier();  // the other's memory is there
  device::wait_for_predecessor();
  device::launch_successor();  // it reads the choice at once: that is there
  GateUp<Fp8> work(a, s);
  if (work.piece.expert < 0) return;  // both CTAs
  const bool consumes = thread < kConsumers;
  if (consumes) {
    work.consume();
  } else if (thread < kConsumers + kLoaders) {
    work.load_rows();
  } else if (thread == kConsumers + kLoaders) {
    work.produce_weights();
  }
  __syncwarp();
  device::cluster_barrier();
  if (consumes && work.rank == 0) work.finish();
}

bool takes(const FewPairs& a, int64_t pieces, int64_t processors) {
  return a.choice.T <= kRows && a.choice.T * a.choice.k <= SlotRoute::kSlots &&
         a.blocks <= kCtas * kMostUnits && pieces * kCtas <= processors &&
         10 * pieces * kCtas >= 9 * processors;
}

}  // namespace

bool few_pairs_gate_up(const Exec& exec, const FewPairs& a, int64_t pieces, bool fp8) {
  if (!takes(a, pieces, cuda::multiprocessors(exec.device.index))) return false;
  const size_t shared = fp8 ? sizeof(SharedStorage<true>) : sizeof(SharedStorage<false>);
  cuda::launch(
      exec,
      "grouped_moe",
      {.grid = dim3(static_cast<unsigned>(pieces * kCtas)),
       .threads = kThreads,
       .shared_bytes = static_cast<int>(shared),
       .cluster = kCtas},
      fp8 ? gate_up_by_pairs<true> : gate_up_by_pairs<false>,
      a
  );
  return true;
}

}  // namespace fathom::ops
