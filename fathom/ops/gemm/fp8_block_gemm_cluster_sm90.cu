// fp8_block_gemm, row cluster_sm90: few tokens (M <= 128), the time is the weights' way from DRAM.
// docs/kernels/fp8_block_gemm.md.
//
// As in row stream_sm90 the weights are WGMMA's 64-row operand A and the tokens its operand B, and
// a producer thread fills a ring of shared-memory slots with weights before the predecessor has
// ended. A slot holds two blocks of 128 k. But a group of 64 x Groups outputs belongs to one
// cluster of 1 to 8 CTAs, each with its own part of K: they add their sums up through each other's
// shared memory, each CTA a part of the outputs, in the order of the parts. No sum goes through L2.
//
// A few tokens of BF16 are quantised by the consumers, each CTA its part of K for all its groups:
// one launch less.
#include <algorithm>
#include <type_traits>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/fp8_block_gemm_rows.h"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Ring;
using device::Vec;

constexpr int kMaxUnits = 512;  // of one CTA: their weight scales lie in shared memory
// Of BF16 tokens: blocks of K of one CTA, and groups of 128 values that it quantises.
constexpr int kMaxResident = 32;
constexpr int kMaxQuantised = 64;
constexpr float kEps = 1e-10f;

template <class Y>
struct Arguments {
  const uint8_t* w;
  const float* w_scale;
  const float* x_scale;
  const __nv_bfloat16* x;  // to be quantised
  Y* y;
  int64_t x_stride, y_stride;
  int M, N;
  bool ue8m0;
  int x_scale_columns;
  bool wide_rows;  // of y: four outputs at an aligned place
  ClusterPlan plan;
};

// Activations by slots of the ring, or all of the CTA's blocks of K.
template <int Tokens, int Stages>
struct SlotsOfX {
  uint8_t x[Stages * 2][Tokens * kTileRowBytes];
  float x_scale[Stages * 2][Tokens];
};
template <int Tokens>
struct AllOfX {
  uint8_t x[kMaxResident][Tokens * kTileRowBytes];
  float x_scale[kMaxResident][Tokens];
};

template <int Groups, int Tokens, int Stages, bool Quantise>
struct SharedStorage {
  static constexpr int kOutputs = Groups * 64;
  uint8_t w[Stages][Groups][2][kTileBytes];
  std::conditional_t<Quantise, AllOfX<Tokens>, SlotsOfX<Tokens, Stages>> in;
  float part[Tokens][kOutputs + 4];  // this CTA's sums of one group
  Barrier full[Stages], empty[Stages];
  Barrier parts_full, parts_empty;  // of the whole cluster
  float w_scale[kMaxUnits];         // [groups of this CTA][its blocks]; only as many as there are
};

template <int Groups, int Tokens, int Stages, bool Quantise, class Y>
struct Product {
  using Storage = SharedStorage<Groups, Tokens, Stages, Quantise>;
  static constexpr int kConsumers = Groups * 128;
  static constexpr int kSums = Tokens / 2;
  static constexpr int kMaxCluster = 8;
  // Beside a producer warp; a warpgroup where registers move to the consumers.
  static constexpr bool kMovesRegisters = Tokens > 64;
  static constexpr int kThreads = kConsumers + (kMovesRegisters ? 128 : 32);

  const Arguments<Y>& a;
  Storage& s;
  int rank, cluster;            // of this CTA in its cluster; which cluster
  int first_block, blocks;      // of this CTA
  int groups, slots_per_group;  // of this CTA

  __device__ Product(const Arguments<Y>& arguments, Storage& storage) : a(arguments), s(storage) {
    const ClusterPlan& plan = a.plan;
    rank = static_cast<int>(blockIdx.x) % plan.cluster;
    cluster = static_cast<int>(blockIdx.x) / plan.cluster;
    first_block = plan.first_block(rank);
    blocks = plan.first_block(rank + 1) - first_block;
    groups = plan.groups_of(cluster);
    slots_per_group = (blocks + 1) / 2;
  }

  __device__ int group(int i) const { return cluster + i * a.plan.clusters; }
  __device__ uint32_t scale_bytes() const {
    return static_cast<uint32_t>(min(a.x_scale_columns, Tokens)) * sizeof(float);
  }

  // Where a slot's blocks begin, and how many they are.
  struct Slot {
    int group, block, count;
  };
  __device__ Slot slot_at(int index) const {
    const int i = index / slots_per_group, first = (index - i * slots_per_group) * 2;
    return {group(i), first_block + first, min(2, blocks - first)};
  }

  __device__ void load_weights(const Slot& slot, int stage) {
    auto bytes = static_cast<uint32_t>(slot.count * Groups * static_cast<int>(kTileBytes));
    if constexpr (!Quantise) {
      bytes += 2 * Tokens * static_cast<uint32_t>(kTileRowBytes) +
               static_cast<uint32_t>(slot.count) * scale_bytes();
    }
    s.full[stage].arrive_expect(bytes);
    const int tiles = (a.N + 63) / 64;
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
      // Beyond the last tile the last one is read again; its outputs are not stored.
      const int64_t tile = min(slot.group * Groups + g, tiles - 1);
      device::bulk_load(
          s.w[stage][g],
          a.w + (tile * a.plan.blocks + slot.block) * kTileBytes,
          static_cast<uint32_t>(slot.count * static_cast<int>(kTileBytes)),
          s.full[stage],
          device::kEvictFirst
      );
    }
  }

  // Beyond K zeros; of another CTA's block nothing is used.
  __device__ void load_activations(const device::TensorMap& x, const Slot& slot, int stage) {
    if constexpr (Quantise) return;
    device::box_load_3d(s.in.x[2 * stage], x, 0, 0, slot.block, s.full[stage], device::kEvictLast);
    for (int i = 0; i < slot.count; ++i) {
      device::bulk_load(
          s.in.x_scale[2 * stage + i],
          a.x_scale + int64_t{slot.block + i} * a.x_scale_columns,
          scale_bytes(),
          s.full[stage],
          device::kEvictLast
      );
    }
  }

  __device__ int all_slots() const {
    return groups * slots_per_group;
  }

  // The ring is full of weights before the predecessor has ended; activations follow it.
  __device__ void fill() {
    for (int i = 0; i < min(Stages, all_slots()); ++i) load_weights(slot_at(i), i);
    device::launch_successor();
  }

  __device__ void produce(const device::TensorMap& x) {
    device::wait_for_predecessor();
    for (int i = 0; i < min(Stages, all_slots()); ++i) load_activations(x, slot_at(i), i);
    Ring<Stages> ring;
    for (int i = Stages; i < all_slots(); ++i) {
      const Slot slot = slot_at(i);
      s.empty[ring.stage].wait(ring.full_parity());  // the slot's first emptying is phase 0
      load_weights(slot, ring.stage);
      load_activations(x, slot, ring.stage);
      ring.advance();
    }
  }

  // By the consumers: 16 lanes a group of 128 values. Rows beyond M hold anything: what they give
  // is not stored.
  __device__ void quantise_all() {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 16, all = blocks * a.M;
    constexpr int kAtOnce = kConsumers / 16, kTurns = (kMaxQuantised + kAtOnce - 1) / kAtOnce;
    uint4 loaded[kTurns];
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int q = min(thread / 16 + i * kAtOnce, all - 1), block = q / a.M;
      const __nv_bfloat16* from =
          a.x + (q - block * a.M) * a.x_stride + (first_block + block) * 128 + lane * 8;
      if (i * kAtOnce < all) loaded[i] = __ldcg(reinterpret_cast<const uint4*>(from));
    }
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      if (i * kAtOnce >= all) break;
      const int q = min(thread / 16 + i * kAtOnce, all - 1), block = q / a.M;
      const int token = q - block * a.M;
      float v[8], amax = kEps;
      Vec<__nv_bfloat16>::unpack(loaded[i], v);
#pragma unroll
      for (int j = 0; j < 8; ++j) amax = fmaxf(amax, fabsf(v[j]));
      const float scale = group_scale(device::warp_max<16>(amax), a.ue8m0);
      if (thread / 16 + i * kAtOnce >= all) continue;
      uint8_t* chunk =
          s.in.x[block] + token * kTileRowBytes + ((lane / 2) ^ (token & 7)) * 16 + lane % 2 * 8;
      *reinterpret_cast<uint2*>(chunk) = quantise(v, scale);
      if (lane == 0) s.in.x_scale[block][token] = scale;
    }
    device::fence_shared_for_async();
    device::named_barrier<1>(kConsumers);
  }

  // `x`: which of the resident or the slots' activations.
  __device__ void multiply(float (&product)[kSums], int stage, int block, int x) {
    const int g = static_cast<int>(threadIdx.x) / 128;
    device::mma_e4m3_tile(
        product,
        device::operand_descriptor(s.w[stage][g][block]),
        device::operand_descriptor(s.in.x[x])
    );
  }

  __device__ void add(float (&sum)[kSums], const float (&product)[kSums], int x, float w_scale) {
    const int token = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int j = 0; j < Tokens / 8; ++j) {
      const float2 scale = *reinterpret_cast<const float2*>(&s.in.x_scale[x][8 * j + token]);
      const float both[2] = {w_scale * scale.x, w_scale * scale.y};
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sum[4 * j + i] = fmaf(both[i % 2], product[4 * j + i], sum[4 * j + i]);
    }
  }

  // Both blocks at once where registers allow: their latency is one.
  __device__ void take_two(float (&sum)[kSums], int stage, int x, const float* w_scale) {
    if constexpr (Tokens <= 32) {
      float first[kSums], second[kSums];
      device::wgmma_fence();
      multiply(first, stage, 0, x);
      multiply(second, stage, 1, x + 1);
      device::wgmma_commit();
      device::wgmma_wait<0>();
      device::pin(first);
      device::pin(second);
      add(sum, first, x, w_scale[0]);
      add(sum, second, x + 1, w_scale[1]);
    } else {
      take_one(sum, stage, 0, x, w_scale[0]);
      take_one(sum, stage, 1, x + 1, w_scale[1]);
    }
  }
  __device__ void take_one(float (&sum)[kSums], int stage, int block, int x, float w_scale) {
    float product[kSums];
    device::wgmma_fence();
    multiply(product, stage, block, x);
    device::wgmma_commit();
    device::wgmma_wait<0>();
    device::pin(product);
    add(sum, product, x, w_scale);
  }

  // This CTA's sums of its i-th group to where the cluster reads them.
  __device__ void publish(const float (&sum)[kSums], int i) {
    const bool alone = a.plan.cluster == 1;
    const int thread = static_cast<int>(threadIdx.x);
    if (alone) {
      device::named_barrier<1>(kConsumers);
    } else {
      s.parts_empty.wait_cluster(static_cast<uint32_t>(i % 2 ^ 1));
    }
    const int row = thread / 128 * 64 + thread % 128 / 32 * 16 + thread % 32 / 4;
    const int token = thread % 4 * 2;
#pragma unroll
    for (int k = 0; k < kSums; ++k) s.part[k / 4 * 8 + token + k % 2][row + k / 2 % 2 * 8] = sum[k];
    device::named_barrier<1>(kConsumers);
    if (alone) return;
    if (thread < a.plan.cluster) s.parts_full.arrive_at(static_cast<uint32_t>(thread));
    s.parts_full.wait_cluster(static_cast<uint32_t>(i % 2));
  }

  // Adds the parts of this CTA's share of the group's outputs, four a thread, and stores them.
  __device__ void store(int i) {
    constexpr int kFours = Storage::kOutputs / 4;
    const int all = min(a.M, Tokens) * kFours, ranks = a.plan.cluster;
    const int begin = all * rank / ranks, end = all * (rank + 1) / ranks;
    for (int v = begin + static_cast<int>(threadIdx.x); v < end; v += kConsumers) {
      const int token = v / kFours, output = v % kFours * 4;
      const float* mine = &s.part[token][output];
      float4 parts[kMaxCluster];
#pragma unroll
      for (int r = 0; r < kMaxCluster; ++r) {
        if (r >= ranks) continue;
        const float* part = ranks == 1 ? mine : device::peer_object(mine, static_cast<uint32_t>(r));
        parts[r] = *reinterpret_cast<const float4*>(part);
      }
      float4 sum = parts[0];
#pragma unroll
      for (int r = 1; r < kMaxCluster; ++r) {
        if (r >= ranks) continue;
        sum.x += parts[r].x;
        sum.y += parts[r].y;
        sum.z += parts[r].z;
        sum.w += parts[r].w;
      }
      put(token, group(i) * Storage::kOutputs + output, sum);
    }
    if (ranks == 1) return;
    device::named_barrier<1>(kConsumers);
    if (static_cast<int>(threadIdx.x) < ranks) s.parts_empty.arrive_at(threadIdx.x);
  }

  __device__ void put(int token, int n, const float4& v) const {
    Y* y = a.y + token * a.y_stride + n;
    if (a.wide_rows && n + 3 < a.N) {
      if constexpr (sizeof(Y) == 4) {
        *reinterpret_cast<float4*>(y) = v;
      } else {
        *reinterpret_cast<uint2*>(y) = {device::pack_bf16(v.x, v.y), device::pack_bf16(v.z, v.w)};
      }
      return;
    }
    const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (n + i < a.N) Vec<Y>::store(y + i, values[i]);
    }
  }

  __device__ void consume() {
    device::wait_for_predecessor();
    if constexpr (Quantise) quantise_all();
    Ring<Stages> ring;
    for (int i = 0; i < groups; ++i) {
      float sum[kSums];
#pragma unroll
      for (int k = 0; k < kSums; ++k) sum[k] = 0;
      const float* w_scale = s.w_scale + i * blocks;
      for (int block = 0; block < blocks; block += 2) {
        const int stage = ring.stage;
        s.full[stage].wait(ring.full_parity());
        const int x = Quantise ? block : 2 * stage;
        if (block + 1 < blocks) {
          take_two(sum, stage, x, w_scale + block);
        } else {
          take_one(sum, stage, 0, x, w_scale[block]);
        }
        if (threadIdx.x % 32 == 0) s.empty[stage].arrive();
        ring.advance();
      }
      publish(sum, i);
      store(i);
    }
  }
};

template <int Groups, int Tokens, int Stages, int Resident, bool Quantise, class Y>
__global__ void __launch_bounds__(Product<Groups, Tokens, Stages, Quantise, Y>::kThreads, Resident)
    multiply(const Arguments<Y> a, const __grid_constant__ device::TensorMap x) {
  extern __shared__ __align__(1024) uint8_t memory[];
  using Work = Product<Groups, Tokens, Stages, Quantise, Y>;
  auto& s = *reinterpret_cast<typename Work::Storage*>(memory);
  Work work(a, s);
  const bool producer = threadIdx.x == Work::kConsumers;
  if (producer) {
    if constexpr (!Quantise) device::prefetch_map(x);
    for (int i = 0; i < Stages; ++i) {
      s.full[i].init(1);
      s.empty[i].init(Work::kConsumers / 32);
    }
    s.parts_full.init(static_cast<uint32_t>(a.plan.cluster));
    s.parts_empty.init(static_cast<uint32_t>(a.plan.cluster));
    device::fence_barrier_init();
    work.fill();
  }
  for (int i = static_cast<int>(threadIdx.x); i < work.groups * work.blocks; i += Work::kThreads) {
    const int row = work.group(i / work.blocks) * Groups / 2;  // of 128 outputs
    const int block = work.first_block + i % work.blocks;
    s.w_scale[i] = __ldg(a.w_scale + int64_t{row} * a.plan.blocks + block);
  }
  __syncthreads();
  if (a.plan.cluster > 1) device::cluster_barrier();  // the peers' barriers are there too
  if (threadIdx.x < Work::kConsumers) {
    if constexpr (Work::kMovesRegisters) device::take_registers<232>();
    work.consume();
  } else {
    if constexpr (Work::kMovesRegisters) device::release_registers<40>();
    if (producer) work.produce(x);
  }
  __syncwarp();
  if (a.plan.cluster > 1) device::cluster_barrier();  // no peer reads this CTA's memory any more
}

// The cut of the product's work by groups of 64 x Groups outputs.
ClusterPlan plan_of(const Exec& exec, const Fp8BlockGemm& args, int groups) {
  return plan_clusters(
      (args.y.dim(1) + 64 * groups - 1) / (64 * groups),
      args.x.dim(1) / 128,
      cuda::multiprocessors(exec.device.index)
  );
}

template <int Groups, int Tokens, int Stages, int Resident, bool Quantise, class Y>
void run(Exec& exec, const Fp8BlockGemm& args) {
  using Storage = SharedStorage<Groups, Tokens, Stages, Quantise>;
  const int64_t M = args.x.dim(0), N = args.y.dim(1);
  [[maybe_unused]] const int64_t K = args.x.dim(1);
  const ClusterPlan plan = plan_of(exec, args, Groups);
  CHECK(plan.most_units() <= kMaxUnits, "{} units a CTA", plan.most_units());
  const int64_t four_bytes = 4 * sizeof(Y);
  const Arguments<Y> a{
      .w = args.w.data.as<uint8_t>(),
      .w_scale = args.w.scale.as<float>(),
      .x_scale = static_cast<const float*>(args.x_scale.data),
      .x = Quantise ? static_cast<const __nv_bfloat16*>(args.x.data) : nullptr,
      .y = static_cast<Y*>(args.y.data),
      .x_stride = args.x.stride(0),
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(M),
      .N = static_cast<int>(N),
      .ue8m0 = args.ue8m0,
      .x_scale_columns = Quantise ? 0 : static_cast<int>(args.x_scale.dim(1)),
      .wide_rows =
          reinterpret_cast<uintptr_t>(args.y.data) % static_cast<size_t>(four_bytes) == 0 &&
          args.y.stride(0) % 4 == 0,
      .plan = plan,
  };
  cuda::TensorMap x{};
  if constexpr (!Quantise) {
    x = cuda::make_tensor_map({
        .data = args.x.data,
        .dtype = DType::u8,
        .rank = 3,
        .dims = {kTileRowBytes, static_cast<uint64_t>(M), static_cast<uint64_t>(K / 128)},
        .stride_bytes = {static_cast<uint64_t>(args.x.stride(0)), kTileRowBytes},
        .box = {kTileRowBytes, Tokens, 2},
    });
  }
  const int shared = static_cast<int>(
      offsetof(Storage, w_scale) + sizeof(float) * static_cast<size_t>(plan.most_units())
  );
  cuda::launch(
      exec,
      "fp8_block_gemm",
      {.grid = dim3(static_cast<unsigned>(plan.clusters * plan.cluster)),
       .threads = Product<Groups, Tokens, Stages, Quantise, Y>::kThreads,
       .shared_bytes = shared,
       .cluster = plan.cluster},
      multiply<Groups, Tokens, Stages, Resident, Quantise, Y>,
      a,
      x
  );
}

// Up to 32 tokens two CTAs share an SM, so that the successor's ring fills beside this one.
template <class Y>
void run_by_tokens(Exec& exec, const Fp8BlockGemm& args) {
  const int64_t M = args.x.dim(0);
  if (args.x.dtype == DType::bf16) return run<1, 8, 4, 2, true, Y>(exec, args);
  if (M <= 8) return run<1, 8, 5, 2, false, Y>(exec, args);
  if (M <= 16) return run<1, 16, 5, 2, false, Y>(exec, args);
  if (M <= 32) return run<1, 32, 4, 2, false, Y>(exec, args);
  if (M <= 64) return run<2, 64, 3, 1, false, Y>(exec, args);
  run<2, 128, 2, 1, false, Y>(exec, args);
}

}  // namespace

bool fp8_block_gemm_takes_cluster(const Exec& exec, const Fp8BlockGemm& args) {
  constexpr int64_t kTokens = 128;
  const int64_t units = (args.y.dim(1) + 63) / 64 * (args.x.dim(1) / 128), M = args.x.dim(0);
  const bool weights = args.w.data.dtype == DType::f8e4m3x64 &&
                       args.x.dim(1) / 128 <= kMaxUnits / 2 &&
                       units / cuda::multiprocessors(exec.device.index) < kMaxUnits / 4;
  if (!weights || M == 0 || reinterpret_cast<uintptr_t>(args.x.data) % 16 != 0) return false;
  if (args.x.dtype == DType::f8e4m3) {
    return M <= kTokens && args.x.stride(0) % 16 == 0 &&
           reinterpret_cast<uintptr_t>(args.x_scale.data) % 16 == 0;
  }
  if (args.x.dtype != DType::bf16 || M > 8 || args.x.stride(0) % 8 != 0) return false;
  const ClusterPlan plan = plan_of(exec, args, 1);
  const int blocks = (plan.blocks + plan.cluster - 1) / plan.cluster;
  return blocks <= kMaxResident && blocks * M <= kMaxQuantised;
}

void fp8_block_gemm_cluster_sm90(Exec& exec, const Fp8BlockGemm& args) {
  args.y.dtype == DType::f32 ? run_by_tokens<float>(exec, args)
                             : run_by_tokens<__nv_bfloat16>(exec, args);
}

}  // namespace fathom::ops
