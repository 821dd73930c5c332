// fp8_block_gemm, row rings_sm90: 65 to 128 tokens, the time is the weights' way from DRAM and the
// tokens' from L2. docs/kernels/fp8_block_gemm.md.
//
// The tokens are WGMMA's operand A, 64 rows for each of two warpgroups, the weights its operand B:
// a thread's sums belong to two tokens, so that a block's scales are two products. Weights and
// tokens have a ring of slots each, of one block of 128 k: the weights' is full before the
// predecessor has ended. A block's products join the sums while the next one's are under way.
//
// A group of outputs belongs to one CTA, or, where a CTA has no other, to a few, each with its own
// part of K, a cluster. At its end each sends the others the sums of their outputs, and adds those
// that come to it, in the order of the parts.
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
      s.w_full[i].init(S::kPieces);
      s.w_empty[i].init(kConsumers / 32);
    }
    device::fence_barrier_init();
  }
  __device__ void init_token_barriers() {
    for (int i = 0; i < S::kTokenSlots; ++i) {
      s.x_full[i].init(1);
      s.x_empty[i].init(kConsumers / 32);
    }
    s.room.init(static_cast<uint32_t>(max(a.plan.parts - 1, 1)));
    for (Barrier& come : s.come) come.init(1);
    device::fence_barrier_init();
  }

  // By one thread for each tile that the group has rows of: the first `rows`, or the others.
  __device__ void load_weights(int piece, int group, int block, int stage) {
    const int first = group * S::kOutputs, skipped = piece == 0 ? first % 64 : 0;
    const int done = piece == 0 ? 0 : 64 - first % 64;
    const int rows = piece == 0 ? min(64 - skipped, S::kOutputs) : S::kOutputs - done;
    // Beyond the last tile the last one is read again; its outputs are not stored.
    const int64_t tile = min(first / 64 + piece, (a.N + 63) / 64 - 1);
    const auto bytes = static_cast<uint32_t>(rows * kTileRowBytes);
    s.w_full[stage].arrive_expect(bytes);
    device::bulk_load(
        s.w[stage] + done * kTileRowBytes,
        a.w + (tile * a.plan.blocks + block) * kTileBytes + skipped * kTileRowBytes,
        bytes,
        s.w_full[stage],
        device::kEvictFirst
    );
  }
  // The ring is full of weights before the predecessor has ended; but no more than a window is on
  // its way at a time, or the first tokens would wait in DRAM's queue behind all the weights.
  __device__ void produce_weights(int piece) {
    const int all = groups * blocks, first = min(all, S::kWeightSlots);
    WeightRing ring;
    Block at;
    for_each_block(at, first, [&](int g, int block) {
      if (ring.stage >= S::kWindow) s.w_full[ring.stage - S::kWindow].wait(0);
      load_weights(piece, g, block, ring.stage);
      ring.advance();
    });
    device::wait_for_predecessor();
    for_each_block(at, all - first, [&](int g, int block) {
      s.w_empty[ring.stage].wait(ring.empty_parity());
      load_weights(piece, g, block, ring.stage);
      ring.advance();
    });
  }

  // What needs nothing of the predecessor comes before the wait for it. Returns the next slot.
  __device__ TokenRing produce_tokens(const device::TensorMap& x) {
    device::launch_successor();
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
    return ring;
  }
  // Tells the other parts when the next slots of tokens, which nobody refills, are free for sums.
  __device__ void make_room(TokenRing ring) {
    for (int i = 0; i < S::kInbox; ++i) {
      s.x_empty[ring.stage].wait(ring.empty_parity());
      ring.advance();
    }
    for (int p = 0; p < a.plan.parts; ++p) {
      if (p != Part::part) s.room.let_go_at(static_cast<uint32_t>(p));
    }
  }

  // By the consumers, beside the first weights.
  __device__ void keep_scales() {
    const auto by_blocks = device::Divisor::found(blocks);
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < groups * blocks * S::kScales; i += kConsumers) {
      const int unit = i / S::kScales, j = i % S::kScales;
      const int turn = by_blocks.quotient(unit), block = Part::first_block + unit - turn * blocks;
      const int row = min(group(turn) * S::kOutputs + j * 8, a.N - 1) / 128;  // of 128 outputs
      s.w_scale[unit][j] = __ldg(a.w_scale + int64_t{row} * a.plan.blocks + block);
    }
    device::named_barrier<kMeet>(kConsumers);
  }

  // Where a block's products read.
  struct Place {
    int w, x;
  };
  __device__ Place begin(float (&product)[S::kSums], WeightRing& w, TokenRing& x) {
    const Place place{w.stage, x.stage};
    s.w_full[w.stage].wait(w.full_parity());
    s.x_full[x.stage].wait(x.full_parity());
    device::wgmma_fence();
    device::mma_e4m3_tile(
        product,
        device::operand_descriptor(s.x[x.stage] + Part::warpgroup * kTileBytes),
        device::operand_descriptor(s.w[w.stage])
    );
    device::wgmma_commit();
    w.advance();
    x.advance();
    return place;
  }

  __device__ void add(
      float (&sum)[S::kSums], float (&product)[S::kSums], const Place& place, int unit
  ) {
    const int thread = static_cast<int>(threadIdx.x);
    const float* x_scale = s.x_scale[place.x] + thread / 32 * 16 + thread % 32 / 4;
    const float of_token[2] = {x_scale[0], x_scale[8]};
    float of_weights[S::kScales];
    if constexpr (S::kScales == 1) {
      of_weights[0] = s.w_scale[unit][0];
    } else {
#pragma unroll
      for (int j = 0; j < S::kScales; j += 4) {
        const uint4 v = *reinterpret_cast<const uint4*>(&s.w_scale[unit][j]);
        Vec<float>::unpack(v, of_weights + j);
      }
    }
    device::pin(product);
    __syncwarp();
    if (thread % 32 == 0) {
      s.w_empty[place.w].arrive();
      s.x_empty[place.x].arrive();
    }
#pragma unroll
    for (int j = 0; j < S::kUnits; ++j) {
      const float of_unit = of_weights[S::kScales == 1 ? 0 : j];
      const float both[2] = {of_unit * of_token[0], of_unit * of_token[1]};
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sum[4 * j + i] = fmaf(both[i / 2], product[4 * j + i], sum[4 * j + i]);
    }
  }

  // The sums of the blocks of numbers unit to end - 1; there is at least one.
  __device__ void multiply(float (&sum)[S::kSums], WeightRing& w, TokenRing& x, int unit, int end) {
    float first[S::kSums], second[S::kSums];
    Place at = begin(first, w, x), next;
    for (; unit + 2 < end; unit += 2) {
      next = begin(second, w, x);
      device::wgmma_wait<1>();
      add(sum, first, at, unit);
      at = begin(first, w, x);
      device::wgmma_wait<1>();
      add(sum, second, next, unit + 1);
    }
    if (unit + 1 < end) {
      next = begin(second, w, x);
      device::wgmma_wait<1>();
      add(sum, first, at, unit);
      device::wgmma_wait<0>();
      add(sum, second, next, unit + 1);
    } else {
      device::wgmma_wait<0>();
      add(sum, first, at, unit);
    }
  }

  __device__ void consume() {
    keep_scales();
    if (a.plan.parts > 1) {
      if (threadIdx.x % 128 == 0) s.come[Part::warpgroup].arrive_expect(Part::inbox_bytes());
      device::cluster_wait();
    }
    device::wait_for_predecessor();
    WeightRing w;
    TokenRing x;
    for (int i = 0; i < groups; ++i) {
      float sum[S::kSums];
#pragma unroll
      for (int k = 0; k < S::kSums; ++k) sum[k] = 0;
      multiply(sum, w, x, i * blocks, (i + 1) * blocks);
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
    if (one && producer < S::kPieces) work.produce_weights(producer);
    device::Ring<S::kTokenSlots> free;
    if (one && producer == kTokenProducer) {
      device::prefetch_map(x);
      free = work.produce_tokens(x);
    }
    __syncwarp();
    if (a.plan.parts == 1) return;
    device::cluster_wait();
    if (one && producer == kTokenProducer) work.make_room(free);
  }
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
    switch (plan.outputs) {
      case 64:
        return run<SharedStorage<64>, Y>(exec, args, plan);
      case 80:
        return run<SharedStorage<80>, Y>(exec, args, plan);
      default:
        return run<SharedStorage<128>, Y>(exec, args, plan);
    }
  };
  args.y.dtype == DType::f32 ? with(float{}) : with(__nv_bfloat16{});
}

}  // namespace fathom::ops
