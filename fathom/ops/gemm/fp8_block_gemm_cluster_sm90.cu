// fp8_block_gemm, row cluster_sm90: M <= 64 tokens, the time is the weights' way from DRAM.
// docs/kernels/fp8_block_gemm.md.
//
// The weights are WGMMA's 64-row operand A, the tokens its operand B: y^T = W x^T. One thread fills
// a ring of shared-memory slots with weights, two blocks of 128 k each, before the predecessor has
// ended, another brings the activations after. Consumers are warpgroups of 64 rows each, or teams
// of one warpgroup that take turns; a block's products join the sums while the next one's are under
// way.
//
// A group of 64 x Groups outputs belongs to one cluster of 1 to 4 CTAs, each with its own part of
// K: they add their sums up through each other's shared memory, each CTA a part of the outputs, in
// the order of the parts. No sum goes through L2.
//
// A few tokens of BF16 are quantised by the consumers, each CTA its part of K for all its groups:
// one launch less.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/gemm/fp8_block_gemm_cluster.cuh"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Vec;

constexpr int kMaxQuantised = 64;  // groups of 128 values of BF16 tokens of one CTA
constexpr float kEps = 1e-10f;

template <class S, class Y>
struct Product : ClusterPart<S, Y> {
  using Storage = SharedStorage<S>;
  using Part = ClusterPart<S, Y>;
  using Part::a, Part::s, Part::first_block, Part::blocks, Part::groups, Part::group, Part::team;
  static constexpr int kSums = Part::kSums;

  __device__ Product(const Arguments<Y>& arguments, Storage& storage) : Part(arguments, storage) {}

  // A slot's one or two blocks, and where it lies in the ring.
  struct Slot {
    int i = 0, block = 0;  // of which of the groups, the first block
    int stage = 0;
    uint32_t pass = 0;
  };
  __device__ void advance(Slot& slot) const {
    slot.block += S::kSlotBlocks;
    if (slot.block >= blocks) {
      slot.block = 0;
      ++slot.i;
    }
    if (++slot.stage == S::kStages) {
      slot.stage = 0;
      ++slot.pass;
    }
  }
  __device__ uint32_t count(const Slot& slot) const {
    return static_cast<uint32_t>(min(S::kSlotBlocks, blocks - slot.block));
  }
  // Before a slot is filled again.
  __device__ void wait_empty(const Slot& slot) {
    if (slot.pass > 0) s.empty[slot.stage].wait(slot.pass % 2 ^ 1);
  }

  __device__ void load_weights(const Slot& slot) {
    const auto bytes = count(slot) * static_cast<uint32_t>(kTileBytes);
    s.full[slot.stage].arrive_expect(bytes * S::kGroups);
    const int tiles = (a.N + 63) / 64;
#pragma unroll
    for (int g = 0; g < S::kGroups; ++g) {
      // Beyond the last tile the last one is read again; its outputs are not stored.
      const int64_t tile = min(group(slot.i) * S::kGroups + g, tiles - 1);
      const uint8_t* from = a.w + (tile * a.plan.blocks + first_block + slot.block) * kTileBytes;
      device::bulk_load(s.w[slot.stage][g], from, bytes, s.full[slot.stage], device::kEvictFirst);
    }
  }

  __device__ uint32_t scale_bytes(const Slot& slot) const {
    return count(slot) * static_cast<uint32_t>(a.x_scale_columns) * 4;
  }
  // Beyond K zeros; of another CTA's block nothing is used.
  __device__ void load_activations(const device::TensorMap& x, const Slot& slot) {
    Barrier& full = s.full[slot.stage];
    const int block = first_block + slot.block;
    uint8_t* to = s.x[S::kSlotBlocks * slot.stage];
    device::box_load_3d(to, x, 0, 0, block, full, device::kEvictLast);
    device::bulk_load(
        s.x_scale + S::kSlotBlocks * slot.stage * S::kTokens,
        a.x_scale + int64_t{block} * a.x_scale_columns,
        scale_bytes(slot),
        full,
        device::kEvictLast
    );
  }

  // By one thread, before any other touches a barrier.
  __device__ void init_barriers() {
    for (int i = 0; i < S::kStages; ++i) {
      s.full[i].init(S::kQuantises ? 1 : 2);
      s.empty[i].init(S::kGroups * 4);
    }
    s.parts_full.init(static_cast<uint32_t>(a.plan.cluster));
    s.parts_empty.init(static_cast<uint32_t>(a.plan.cluster));
    device::fence_barrier_init();
  }

  // The ring is full of weights before the predecessor has ended; activations follow it.
  __device__ void produce_weights() {
    Slot slot;
#pragma unroll 1
    for (int n = 0; n < S::kStages && slot.i < groups; ++n, advance(slot)) load_weights(slot);
    device::launch_successor();
    device::wait_for_predecessor();
    for (; slot.i < groups; advance(slot)) {
      wait_empty(slot);
      load_weights(slot);
    }
  }
  // What needs nothing of the predecessor comes before the wait for it.
  __device__ void produce_activations(const device::TensorMap& x) {
    constexpr auto kBytes = static_cast<uint32_t>(S::kSlotBlocks * S::kTokens * kTileRowBytes);
    bool first = true;
#pragma unroll 1
    for (Slot slot; slot.i < groups; advance(slot)) {
      wait_empty(slot);
      s.full[slot.stage].arrive_expect(kBytes + scale_bytes(slot));
      if (first) device::wait_for_predecessor();
      first = false;
      load_activations(x, slot);
    }
  }

  // By the consumers, beside the first weights.
  __device__ void keep_scales() {
    const auto by_blocks = device::Divisor::found(blocks);
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < groups * blocks; i += S::kConsumers) {
      const int turn = by_blocks.quotient(i);
      const int row = group(turn) * S::kGroups / 2;  // of 128 outputs
      const int block = first_block + i - turn * blocks;
      s.w_scale[i] = __ldg(a.w_scale + int64_t{row} * a.plan.blocks + block);
    }
    device::named_barrier<1>(S::kConsumers);
  }

  // By the consumers: 16 lanes a group of 128 values. Rows beyond M hold anything: what they give
  // is not stored.
  __device__ void quantise_all() {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 16, all = blocks * a.M;
    constexpr int kAtOnce = S::kConsumers / 16, kTurns = kMaxQuantised / kAtOnce;
    const auto by_tokens = device::Divisor::found(a.M);
    const __nv_bfloat16* from[kTurns];
    int place[kTurns];  // block * kTokens + token
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int q = min(thread / 16 + i * kAtOnce, all - 1);
      const int block = by_tokens.quotient(q);
      const int token = q - block * a.M;
      from[i] = a.x + token * a.x_stride + (first_block + block) * 128 + lane * 8;
      place[i] = block * S::kTokens + token;
    }
    device::wait_for_predecessor();
    uint4 loaded[kTurns];
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      if (i * kAtOnce < all) loaded[i] = __ldcg(reinterpret_cast<const uint4*>(from[i]));
    }
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      if (i * kAtOnce >= all) break;
      const int block = place[i] / S::kTokens, token = place[i] % S::kTokens;
      float v[8];
      Vec<__nv_bfloat16>::unpack(loaded[i], v);
      const float scale = group_scale<16>(v, kEps, a.ue8m0);
      if (thread / 16 + i * kAtOnce >= all) continue;
      uint8_t* chunk =
          s.x[block] + token * kTileRowBytes + ((lane / 2) ^ (token & 7)) * 16 + lane % 2 * 8;
      *reinterpret_cast<uint2*>(chunk) = quantise(v, scale);
      if (lane == 0) s.x_scale[place[i]] = scale;
    }
    device::fence_shared_for_async();
    device::named_barrier<1>(S::kConsumers);
  }

  // Starts the products of the slot's block `b`.
  __device__ void multiply(float (&product)[kSums], const Slot& slot, int b) {
    const int g = S::kGroups == 1 ? 0 : static_cast<int>(threadIdx.x) / 128;
    const int place = (S::kQuantises ? slot.block : S::kSlotBlocks * slot.stage) + b;
    device::mma_e4m3_tile(
        product,
        device::operand_descriptor(s.w[slot.stage][g][b]),
        device::operand_descriptor(s.x[place])
    );
    device::wgmma_commit();
  }

  __device__ void add(float (&sum)[kSums], float (&product)[kSums], const Slot& slot, int b) {
    const float w_scale = s.w_scale[slot.i * blocks + slot.block + b];
    const float* x_scale = S::kQuantises ? s.x_scale + (slot.block + b) * S::kTokens
                                         : s.x_scale + S::kSlotBlocks * slot.stage * S::kTokens +
                                               b * a.x_scale_columns;
    x_scale += threadIdx.x % 4 * 2;
    device::pin(product);
#pragma unroll
    for (int j = 0; j < S::kTokens / 8; ++j) {
      const float2 scale = *reinterpret_cast<const float2*>(x_scale + 8 * j);
      const float both[2] = {w_scale * scale.x, w_scale * scale.y};
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sum[4 * j + i] = fmaf(both[i % 2], product[4 * j + i], sum[4 * j + i]);
    }
  }

  __device__ void wait_full(const Slot& slot) {
    s.full[slot.stage].wait(slot.pass % 2);
  }
  __device__ void release(const Slot& slot) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) s.empty[slot.stage].arrive();
  }

  __device__ void take_one(float (&sum)[kSums], const Slot& slot) {
    float product[kSums];
    wait_full(slot);
    device::wgmma_fence();
    multiply(product, slot, 0);
    device::wgmma_wait<0>();
    add(sum, product, slot, 0);
    release(slot);
  }

  __device__ void take_two(float (&sum)[kSums], const Slot& slot) {
    float first[kSums], second[kSums];
    wait_full(slot);
    device::wgmma_fence();
    multiply(first, slot, 0);
    multiply(second, slot, 1);
    device::wgmma_wait<1>();
    add(sum, first, slot, 0);
    device::wgmma_wait<0>();
    add(sum, second, slot, 1);
    release(slot);
  }

  __device__ void consume() {
    keep_scales();
    if constexpr (S::kQuantises) {
      quantise_all();
    } else {
      device::wait_for_predecessor();
    }
    Slot slot;
    for (int i = 0; i < groups; ++i) {
      float sum[kSums];
#pragma unroll
      for (int k = 0; k < kSums; ++k) sum[k] = 0;
      for (; slot.i == i; advance(slot)) {
        if (slot.stage % S::kTeams != team()) continue;
        if (slot.block + 1 < blocks) {
          take_two(sum, slot);
        } else {
          take_one(sum, slot);
        }
      }
      if (i == 0 && a.plan.cluster > 1) device::cluster_wait();  // the peers' barriers are there
      Part::finish(sum, i);
    }
  }
};

template <class S, class Y>
__global__ void __launch_bounds__(S::kThreads, S::kResident)
    multiply(const Arguments<Y> a, const __grid_constant__ device::TensorMap x) {
  extern __shared__ __align__(1024) uint8_t memory[];
  using Work = Product<S, Y>;
  auto& s = *reinterpret_cast<typename Work::Storage*>(memory);
  Work work(a, s);
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  const bool one = threadIdx.x % 32 == 0, tokens = warp == S::kTokenWarp && !S::kQuantises;
  // Weights are asked for before anything else: nobody waits for more than the barriers.
  if (warp == S::kWeightWarp) {
    if (one) work.init_barriers();
    __syncwarp();
    device::give_turn(kReady, S::kThreads);
  } else {
    if (tokens && one) device::prefetch_map(x);
    device::named_barrier<kReady>(S::kThreads);
  }
  if (a.plan.cluster > 1) device::cluster_arrive();
  if (warp < S::kWeightWarp) {
    if constexpr (S::kMovesRegisters) device::take_registers<232>();
    work.consume();
  } else {
    if constexpr (S::kMovesRegisters) device::release_registers<40>();
    if (warp == S::kWeightWarp && one) work.produce_weights();
    if (tokens && one) work.produce_activations(x);
    __syncwarp();
    if (a.plan.cluster > 1) device::cluster_wait();
  }
  __syncwarp();
  if (a.plan.cluster == 1) return;
  device::cluster_arrive();  // this CTA reads no peer's memory any more
  device::cluster_wait();
}

template <class S>
ClusterPlan plan_of(const Exec& exec, const Fp8BlockGemm& args) {
  return plan_clusters(
      (args.y.dim(1) + S::kOutputs - 1) / S::kOutputs,
      args.x.dim(1) / 128,
      {.processors = cuda::multiprocessors(exec.device.index),
       .resident = S::kResident,
       .whole = S::kWhole,
       .most_blocks = S::kQuantises ? kMaxResident : 0}
  );
}

template <class S, class Y>
void run(Exec& exec, const Fp8BlockGemm& args) {
  using Storage = SharedStorage<S>;
  const int64_t M = args.x.dim(0), N = args.y.dim(1);
  [[maybe_unused]] const int64_t K = args.x.dim(1);
  const ClusterPlan plan = plan_of<S>(exec, args);
  const Arguments<Y> a{
      .w = args.w.data.as<uint8_t>(),
      .w_scale = args.w.scale.as<float>(),
      .x_scale = static_cast<const float*>(args.x_scale.data),
      .x = S::kQuantises ? static_cast<const __nv_bfloat16*>(args.x.data) : nullptr,
      .y = static_cast<Y*>(args.y.data),
      .x_stride = args.x.stride(0),
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(M),
      .N = static_cast<int>(N),
      .ue8m0 = args.ue8m0,
      .x_scale_columns = S::kQuantises ? 0 : static_cast<int>(args.x_scale.dim(1)),
      .wide_rows = reinterpret_cast<uintptr_t>(args.y.data) % (2 * sizeof(Y)) == 0 &&
                   args.y.stride(0) % 2 == 0,
      .plan = plan,
      .places = plan_places(plan.groups, plan.cluster, plan.clusters),
  };
  cuda::TensorMap x{};
  if constexpr (!S::kQuantises) {
    x = cuda::make_tensor_map({
        .data = args.x.data,
        .dtype = DType::u8,
        .rank = 3,
        .dims = {kTileRowBytes, static_cast<uint64_t>(M), static_cast<uint64_t>(K / 128)},
        .stride_bytes = {static_cast<uint64_t>(args.x.stride(0)), kTileRowBytes},
        .box = {kTileRowBytes, S::kTokens, S::kSlotBlocks},
    });
  }
  const int shared = static_cast<int>(
      offsetof(Storage, w_scale) + sizeof(float) * static_cast<size_t>(plan.most_units())
  );
  cuda::launch(
      exec,
      "fp8_block_gemm",
      {.grid = dim3(static_cast<unsigned>(plan.clusters * plan.cluster)),
       .threads = S::kThreads,
       .shared_bytes = shared,
       .cluster = plan.cluster},
      multiply<S, Y>,
      a,
      x
  );
}

// Calls f with the shape that takes args.
template <class F>
auto with_shape(const Exec& exec, const Fp8BlockGemm& args, F f) {
  const int64_t M = args.x.dim(0);
  if (args.x.dtype == DType::bf16) return f(Shape<8, true>{});
  if (M > 32) return f(Shape<64>{});
  const bool whole = clusters_take_whole_processors(
      M, (args.y.dim(1) + 63) / 64, args.x.dim(1) / 128, cuda::multiprocessors(exec.device.index)
  );
  if (M <= 8) return whole ? f(Shape<8, false, true>{}) : f(Shape<8>{});
  if (M <= 16) return whole ? f(Shape<16, false, true>{}) : f(Shape<16>{});
  return whole ? f(Shape<32, false, true>{}) : f(Shape<32>{});
}

}  // namespace

bool fp8_block_gemm_takes_cluster(const Exec& exec, const Fp8BlockGemm& args) {
  const int64_t M = args.x.dim(0);
  const auto aligned = [](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  };
  if (args.w.data.dtype != DType::f8e4m3x64 || M == 0 || !aligned(args.x)) return false;
  const ClusterPlan plan =
      with_shape(exec, args, [&]<class S>(S) { return plan_of<S>(exec, args); });
  const int most_units = with_shape(exec, args, []<class S>(S) { return S::kMaxUnits; });
  if (plan.most_units() > most_units) return false;
  if (args.x.dtype == DType::f8e4m3)
    return M <= 64 && args.x.stride(0) % 16 == 0 && aligned(args.x_scale);
  return M <= 8 && args.x.stride(0) % 8 == 0 && plan.most_blocks() <= kMaxResident &&
         plan.most_blocks() * M <= kMaxQuantised;
}

void fp8_block_gemm_cluster_sm90(Exec& exec, const Fp8BlockGemm& args) {
  with_shape(exec, args, [&]<class S>(S) {
    args.y.dtype == DType::f32 ? run<S, float>(exec, args) : run<S, __nv_bfloat16>(exec, args);
  });
}

}  // namespace fathom::ops
