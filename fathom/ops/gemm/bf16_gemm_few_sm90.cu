// bf16_gemm, row few_sm90: 2 to 128 tokens, the time is the weights' way from DRAM and the tokens'
// from L2. docs/kernels/bf16_gemm.md.
//
// The weights are WGMMA's 64-row operand A, the tokens its operand B: y^T = W x^T. A CTA has one
// group of 64 outputs, or a part of K of one, and ends with it: which multiprocessor takes
// the next group is the hardware's choice, and two CTAs a multiprocessor hide each other's starts
// and ends. Weights and tokens have a ring of slots each; the weights' is full before the
// predecessor has ended. The CTAs of a cluster have parts of K of the same group and send each
// other their sums.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/gemm/bf16_gemm_few.cuh"

namespace fathom::ops {
namespace {

template <class S>
struct Product {
  // The successor of a product in parts starts when all weights have been asked for: many tokens
  // would come behind its own.
  static constexpr bool kLate = S::kTokens > 32;
  using WeightRing = device::Ring<S::kWeightSlots>;
  using TokenRing = device::Ring<S::kTokenSlots>;
  const Arguments& a;
  SharedStorage<S>& s;
  const int group, part;
  const int first = part * a.slots + min(part, a.longer);  // slot of K
  const int slots = a.slots + (part < a.longer ? 1 : 0);   // of this part
  GroupEnd<S> end{a, s, group, part};

  // By one thread, before any other touches a barrier.
  __device__ void init_barriers() {
    for (Barrier& full : s.w_full) full.init(1);
    for (Barrier& full : s.x_full) full.init(1);
    for (Barrier& empty : s.empty) empty.init(kConsumers / 32);
    s.arrived.init(1);
    device::fence_barrier_init();
    s.arrived.arrive_expect(static_cast<uint32_t>(end.letters() * kConsumers * 16));
  }

  // Of the slots beyond K zeros.
  __device__ void load_weights(const device::TensorMap& w, int i, WeightRing& ring) {
    Barrier& full = s.w_full[ring.stage];
    full.arrive_expect(S::kWeightBytes);
    const int panel = (first + i) * S::kPanels;
    device::box_load_3d(
        s.w[ring.stage], w, 0, group * kFewOutputs, panel, full, device::kEvictFirst
    );
    ring.advance();
  }
  __device__ void load_tokens(const device::TensorMap& x, int i, TokenRing& ring) {
    Barrier& full = s.x_full[ring.stage];
    full.arrive_expect(S::kTokenBytes);
    device::box_load_3d(
        s.x[ring.stage], x, 0, 0, (first + i) * S::kPanels, full, device::kEvictLast
    );
    ring.advance();
  }

  // By one thread. The ring is full of weights before the predecessor has ended.
  __device__ void produce(const device::TensorMap& x, const device::TensorMap& w) {
    WeightRing w_ring, done;
    TokenRing x_ring;
    int weights = 0, tokens = 0;
#pragma unroll 1
    for (; weights < min(slots, S::kWeightSlots); ++weights) load_weights(w, weights, w_ring);
    device::prefetch_map(x);
    if (!kLate || a.parts == 1) device::launch_successor();
    device::wait_for_predecessor();
#pragma unroll 1
    for (; tokens < min(slots, S::kTokenSlots); ++tokens) load_tokens(x, tokens, x_ring);
    if (kLate && weights == slots) device::launch_successor();
#pragma unroll 1
    for (; tokens < slots; ++tokens, done.advance()) {
      s.empty[done.stage].wait(done.full_parity());
      load_tokens(x, tokens, x_ring);
      if (weights < slots) load_weights(w, weights++, w_ring);
      if (kLate && weights == slots) device::launch_successor();
    }
  }

  // One slot's products stay under way while the next one's are given.
  __device__ void multiply(float (&sum)[S::kSums]) {
    const uint64_t w = device::operand_descriptor(s.w), x = device::operand_descriptor(s.x);
    WeightRing w_ring;
    TokenRing x_ring;
    int before = 0;  // the slot whose products are under way
#pragma unroll 1
    for (int i = 0; i < slots; ++i) {
      s.w_full[w_ring.stage].wait(w_ring.full_parity());
      s.x_full[x_ring.stage].wait(x_ring.full_parity());
      // The same of all lanes, so that the uniform datapath works out descriptors.
      const auto of_warp = [](int v) {
        return static_cast<uint32_t>(__shfl_sync(0xffffffffu, v, 0));
      };
      const uint32_t w_slot = of_warp(w_ring.stage) * (S::kWeightBytes / 16);
      const uint32_t x_slot = of_warp(x_ring.stage) * (S::kTokenBytes / 16);
      device::pin(sum);
      device::wgmma_fence();
#pragma unroll
      for (uint32_t p = 0; p < S::kPanels; ++p) {
#pragma unroll
        for (uint32_t k = 0; k < kPanel / 16; ++k) {
          device::mma_bf16(
              sum,
              device::advanced(w, w_slot + p * (kFewOutputs * kRowBytes / 16) + 2 * k),
              device::advanced(x, x_slot + p * (S::kTokens * kRowBytes / 16) + 2 * k),
              i > 0 || p > 0 || k > 0
          );
        }
      }
      device::wgmma_commit();
      device::wgmma_wait<1>();
      if (i > 0 && threadIdx.x % 32 == 0) s.empty[before].arrive();
      before = w_ring.stage;
      w_ring.advance();
      x_ring.advance();
    }
    device::wgmma_wait<0>();
    device::pin(sum);
  }

  __device__ void consume() {
    device::wait_for_predecessor();
    float sum[S::kSums];
    multiply(sum);
    end.finish(sum);
  }
};

template <class S>
__global__ void __launch_bounds__(kThreads, S::kResident) multiply(
    const Arguments a,
    const __grid_constant__ device::TensorMap x,
    const __grid_constant__ device::TensorMap w
) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Product<S> work{
      a,
      *reinterpret_cast<SharedStorage<S>*>(memory),
      static_cast<int>(device::cluster_id()),
      static_cast<int>(device::cluster_rank())};
  const bool producer = threadIdx.x >= kConsumers, one = threadIdx.x == kConsumers;
  // Weights are asked for before anything else: nobody waits for more than the barriers.
  if (producer) {
    if (one) work.init_barriers();
    __syncwarp();
    device::give_turn(kReady, kThreads);
  } else {
    device::named_barrier<kReady>(kThreads);
  }
  if (a.parts > 1) device::cluster_arrive();
  if (producer) {
    if (one) work.produce(x, w);
    __syncwarp();
    if (a.parts > 1) device::cluster_wait();
  } else {
    if (a.parts > 1) device::cluster_wait();  // the peers' barriers are there
    work.consume();
  }
}

// [rows, K] as panels of 64 k.
cuda::TensorMap panel_map(const Tensor& t, int64_t rows, int box_rows, int box_panels) {
  return cuda::make_tensor_map({
      .data = t.data,
      .dtype = DType::bf16,
      .rank = 3,
      .dims = {kPanel, static_cast<uint64_t>(rows), static_cast<uint64_t>(t.dim(1) / kPanel)},
      .stride_bytes = {static_cast<uint64_t>(t.stride(0)) * 2, kRowBytes},
      .box = {kPanel, static_cast<uint32_t>(box_rows), static_cast<uint32_t>(box_panels)},
  });
}

template <class S>
void run(Exec& exec, const Bf16Gemm& args, int parts) {
  const int64_t M = args.x.dim(0), N = args.y.dim(1);
  const auto panels = static_cast<int>(args.x.dim(1) / kPanel);
  const int slots = (panels + S::kPanels - 1) / S::kPanels;
  parts = std::min({parts, slots, S::kMostParts});
  const int groups = static_cast<int>((N + kFewOutputs - 1) / kFewOutputs);
  const Arguments a{
      .bias = args.bias.data,
      .y = args.y.data,
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(M),
      .N = static_cast<int>(N),
      .parts = parts,
      .by_parts = (65536 + static_cast<uint32_t>(parts) - 1) / static_cast<uint32_t>(parts),
      .slots = slots / parts,
      .longer = slots % parts,
      .wide_y = args.y.dtype == DType::f32,
      .wide_bias = args.bias.defined() && args.bias.dtype == DType::f32,
      .wide_rows = reinterpret_cast<uintptr_t>(args.y.data) % 16 == 0 && args.y.stride(0) % 8 == 0,
  };
  cuda::launch(
      exec,
      "bf16_gemm",
      {.grid = dim3(static_cast<unsigned>(groups * parts)),
       .threads = kThreads,
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<S>)),
       .cluster = parts},
      multiply<S>,
      a,
      panel_map(args.x, M, S::kTokens, S::kPanels),
      panel_map(args.weight, N, kFewOutputs, S::kPanels)
  );
}

// Calls f with the shape of a plan.
template <int Tokens, class F>
void with_shape(const FewPlan& plan, F f) {
  plan.whole ? f(Shape<Tokens, true>{}) : f(Shape<Tokens, false>{});
}

}  // namespace

bool bf16_gemm_takes_few(const Exec&, const Bf16Gemm& args) {
  return args.x.dim(0) <= 128 && args.x.dim(1) % kPanel == 0 && bf16_gemm_in_boxes(args);
}

void bf16_gemm_few_sm90(Exec& exec, const Bf16Gemm& args) {
  const int64_t M = args.x.dim(0);
  const FewPlan plan =
      plan_few(M, args.y.dim(1), args.x.dim(1), cuda::multiprocessors(exec.device.index));
  const auto start = [&]<class S>(S) { run<S>(exec, args, plan.parts); };
  if (M <= 16) return with_shape<16>(plan, start);
  if (M <= 32) return with_shape<32>(plan, start);
  if (M <= 64) return with_shape<64>(plan, start);
  with_shape<128>(plan, start);
}

}  // namespace fathom::ops
