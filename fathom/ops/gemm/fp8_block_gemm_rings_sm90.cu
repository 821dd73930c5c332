// fp8_block_gemm, row rings_sm90: 65 to 128 tokens, the time is the weights' way from DRAM and the
// tokens' from L2. docs/kernels/fp8_block_gemm.md.
//
// The weights are WGMMA's 64-row operand A, the tokens its operand B: y^T = W x^T. Weights and
// tokens have a ring of slots each, of one block of 128 k: the weights' is deep, since they come
// from DRAM, and full before the predecessor has ended. Two warpgroups, of 64 outputs each or in
// turn at the blocks of the same 64; a block's products join the sums while the next one's are
// under way.
//
// A group of outputs belongs to one CTA, or, where a CTA has no other, to a few, each with its own
// part of K, a cluster. At its end each shows the others the sums of their tokens in its shared
// memory, and adds those shown to it, in the order of the parts.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/gemm/fp8_block_gemm_rings.cuh"

namespace fathom::ops {
namespace {

template <class S, class Y>
struct Product : RingPart<S, Y> {
  using Part = RingPart<S, Y>;
  using Part::a, Part::s, Part::blocks, Part::groups, Part::group;
  using WeightRing = device::Ring<S::kWeightSlots>;
  using TokenRing = device::Ring<S::kTokenSlots>;

  __device__ Product(const Arguments<Y>& arguments, S& storage) : Part(arguments, storage) {}

  // A block of the CTA's: of which of its groups, which of its blocks of K.
  struct Block {
    int turn = 0, block = 0;
  };
  // f(group, block) for the next `count` blocks of this CTA.
  template <class F>
  __device__ void for_each_block(Block& at, int count, F f) const {
#pragma unroll 1
    for (; count > 0; --count) {
      f(group(at.turn), Part::first_block + at.block);
      if (++at.block == blocks) {
        at.block = 0;
        ++at.turn;
      }
    }
  }

  // By one thread each, before any other touches a barrier.
  __device__ void init_weight_barriers() {
    for (int i = 0; i < S::kWeightSlots; ++i) {
      s.w_full[i].init(S::kHalves);
      s.w_empty[i].init(4 * S::kHalves);
    }
    device::fence_barrier_init();
  }
  __device__ void init_token_barriers() {
    for (int i = 0; i < S::kTokenSlots; ++i) {
      s.x_full[i].init(1);
      s.x_empty[i].init(4 * S::kHalves);
    }
    for (Barrier& shown : s.shown) shown.init(static_cast<uint32_t>(max(a.plan.parts - 1, 1)));
    device::fence_barrier_init();
  }

  // By one thread for each 64 outputs.
  __device__ void load_weights(int half, int group, int block, int stage) {
    // Beyond the last tile the last one is read again; its outputs are not stored.
    const int64_t tile = min(group * S::kHalves + half, (a.N + 63) / 64 - 1);
    s.w_full[stage].arrive_expect(kTileBytes);
    device::bulk_load(
        s.w[stage][half],
        a.w + (tile * a.plan.blocks + block) * kTileBytes,
        kTileBytes,
        s.w_full[stage],
        device::kEvictFirst
    );
  }
  // The ring is full of weights before the predecessor has ended.
  __device__ void produce_weights(int half) {
    const int all = groups * blocks, first = min(all, S::kWeightSlots);
    WeightRing ring;
    Block at;
    for_each_block(at, first, [&](int g, int block) {
      load_weights(half, g, block, ring.stage);
      ring.advance();
    });
    device::launch_successor();
    device::wait_for_predecessor();
    for_each_block(at, all - first, [&](int g, int block) {
      s.w_empty[ring.stage].wait(ring.empty_parity());
      load_weights(half, g, block, ring.stage);
      ring.advance();
    });
  }

  // What needs nothing of the predecessor comes before the wait for it.
  __device__ void produce_tokens(const device::TensorMap& x) {
    const auto scale_bytes = static_cast<uint32_t>(a.x_scale_columns) * 4;
    TokenRing ring;
    Block at;
    bool first = true;
    for_each_block(at, groups * blocks, [&](int, int block) {
      Barrier& full = s.x_full[ring.stage];
      s.x_empty[ring.stage].wait(ring.empty_parity());
      full.arrive_expect(kTokens * kTileRowBytes + scale_bytes);
      if (first) device::wait_for_predecessor();
      first = false;
      device::box_load(s.x[ring.stage], x, block * 128, 0, full, device::kEvictLast);
      device::bulk_load(
          s.x_scale[ring.stage],
          a.x_scale + int64_t{block} * a.x_scale_columns,
          scale_bytes,
          full,
          device::kEvictLast
      );
      ring.advance();
    });
  }

  // By the consumers, beside the first weights.
  __device__ void keep_scales() {
    const auto by_blocks = device::Divisor::found(blocks);
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < groups * blocks; i += kConsumers) {
      const int turn = by_blocks.quotient(i);
      const int row = group(turn) * S::kHalves / 2;  // of 128 outputs
      const int block = Part::first_block + i - turn * blocks;
      s.w_scale[i] = __ldg(a.w_scale + int64_t{row} * a.plan.blocks + block);
    }
    device::named_barrier<kMeet>(kConsumers);
  }

  template <int Steps>
  __device__ static void step(WeightRing& w, TokenRing& x) {
#pragma unroll
    for (int i = 0; i < Steps; ++i) {
      w.advance();
      x.advance();
    }
  }

  // Where a block's products read.
  struct Place {
    int w, x;
  };
  __device__ Place begin(float (&product)[kSums], WeightRing& w, TokenRing& x) {
    const Place place{w.stage, x.stage};
    s.w_full[w.stage].wait(w.full_parity());
    s.x_full[x.stage].wait(x.full_parity());
    device::wgmma_fence();
    device::mma_e4m3_tile(
        product,
        device::operand_descriptor(s.w[w.stage][Part::half()]),
        device::operand_descriptor(s.x[x.stage])
    );
    device::wgmma_commit();
    step<S::kTeams>(w, x);
    return place;
  }

  __device__ void add(float (&sum)[kSums], float (&product)[kSums], const Place& place, int unit) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const float w_scale = s.w_scale[unit];
    const float* x_scale = s.x_scale[place.x] + lane % 4 * 2;
    device::pin(product);
    if (lane == 0) s.w_empty[place.w].arrive();
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      const float2 scale = *reinterpret_cast<const float2*>(x_scale + 8 * j);
      const float both[2] = {w_scale * scale.x, w_scale * scale.y};
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sum[4 * j + i] = fmaf(both[i % 2], product[4 * j + i], sum[4 * j + i]);
    }
    __syncwarp();
    if (lane == 0) s.x_empty[place.x].arrive();
  }

  // The sums of the blocks of numbers unit, unit + kTeams, ... below `end`; there is at least one.
  __device__ void multiply(float (&sum)[kSums], WeightRing& w, TokenRing& x, int unit, int end) {
    constexpr int kStep = S::kTeams;
    float first[kSums], second[kSums];
    Place at = begin(first, w, x), next;
    for (; unit + 2 * kStep < end; unit += 2 * kStep) {
      next = begin(second, w, x);
      device::wgmma_wait<1>();
      add(sum, first, at, unit);
      at = begin(first, w, x);
      device::wgmma_wait<1>();
      add(sum, second, next, unit + kStep);
    }
    if (unit + kStep < end) {
      next = begin(second, w, x);
      device::wgmma_wait<1>();
      add(sum, first, at, unit);
      device::wgmma_wait<0>();
      add(sum, second, next, unit + kStep);
    } else {
      device::wgmma_wait<0>();
      add(sum, first, at, unit);
    }
  }

  __device__ void consume() {
    keep_scales();
    device::wait_for_predecessor();
    WeightRing w;
    TokenRing x;
    if (Part::team() == 1) step<1>(w, x);
    for (int i = 0; group(i) < a.plan.groups; ++i) {
      float sum[kSums];
#pragma unroll
      for (int k = 0; k < kSums; ++k) sum[k] = 0;
      multiply(sum, w, x, i * blocks + Part::team(), (i + 1) * blocks);
      Part::finish(sum, i);
    }
  }
};

template <class S, class Y>
__global__ void __launch_bounds__(kThreads, 1)
    multiply(const Arguments<Y> a, const __grid_constant__ device::TensorMap x) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<S*>(memory);
  Product<S, Y> work(a, s);
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  const int producer = warp - kConsumers / 32;
  const bool one = threadIdx.x % 32 == 0;
  // Weights are asked for before anything else: nobody waits for more than the barriers.
  if (producer == 0 || producer == kTokenProducer) {
    if (one && producer == 0) work.init_weight_barriers();
    if (one && producer != 0) work.init_token_barriers();
    __syncwarp();
    device::give_turn(kReady, kThreads);
  } else {
    device::named_barrier<kReady>(kThreads);
  }
  if (a.plan.parts > 1) device::cluster_arrive();
  if (producer < 0) {
    device::take_registers<232>();
    work.consume();
  } else {
    device::release_registers<40>();
    if (one && producer < S::kHalves) work.produce_weights(producer);
    if (one && producer == kTokenProducer) {
      device::prefetch_map(x);
      work.produce_tokens(x);
    }
    __syncwarp();
    if (a.plan.parts > 1) device::cluster_wait();
  }
  __syncwarp();
  if (a.plan.parts == 1) return;
  device::cluster_arrive();  // this CTA reads no peer's memory any more
  device::cluster_wait();
}

RingPlan plan_of(const Exec& exec, const Fp8BlockGemm& args) {
  return plan_rings(args.y.dim(1), args.x.dim(1) / 128, cuda::multiprocessors(exec.device.index));
}

template <class S, class Y>
void run(Exec& exec, const Fp8BlockGemm& args, const RingPlan& plan) {
  const int64_t M = args.x.dim(0), N = args.y.dim(1), K = args.x.dim(1);
  const Arguments<Y> a{
      .w = args.w.data.as<uint8_t>(),
      .w_scale = args.w.scale.as<float>(),
      .x_scale = args.x_scale.as<float>(),
      .y = static_cast<Y*>(args.y.data),
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(M),
      .N = static_cast<int>(N),
      .x_scale_columns = static_cast<int>(args.x_scale.dim(1)),
      .wide_rows = reinterpret_cast<uintptr_t>(args.y.data) % 16 == 0 && args.y.stride(0) % 8 == 0,
      .plan = plan,
      .places = plan_places(plan.groups, plan.parts, plan.clusters),
  };
  const cuda::TensorMap x = cuda::make_matrix_map(
      args.x.data, DType::u8, M, K, args.x.stride(0), kTokens, 128, cuda::Swizzle::bytes128
  );
  cuda::launch(
      exec,
      "fp8_block_gemm",
      {.grid = dim3(static_cast<unsigned>(plan.clusters * plan.parts)),
       .threads = kThreads,
       .shared_bytes = sizeof(S),
       .cluster = plan.parts},
      multiply<S, Y>,
      a,
      x
  );
}

}  // namespace

bool fp8_block_gemm_takes_rings(const Exec& exec, const Fp8BlockGemm& args) {
  const int64_t M = args.x.dim(0);
  const auto aligned = [](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  };
  if (args.w.data.dtype != DType::f8e4m3x64 || args.x.dtype != DType::f8e4m3) return false;
  if (M <= 64 || M > kTokens || args.x.stride(0) % 16 != 0) return false;
  return aligned(args.x) && aligned(args.x_scale) && plan_of(exec, args).groups > 0;
}

void fp8_block_gemm_rings_sm90(Exec& exec, const Fp8BlockGemm& args) {
  const RingPlan plan = plan_of(exec, args);
  const auto with = [&]<class Y>(Y) {
    plan.outputs == 64 ? run<SharedStorage<64>, Y>(exec, args, plan)
                       : run<SharedStorage<128>, Y>(exec, args, plan);
  };
  args.y.dtype == DType::f32 ? with(float{}) : with(__nv_bfloat16{});
}

}  // namespace fathom::ops
