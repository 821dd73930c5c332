// fp8_block_gemm, row stream_sm90: few tokens (M <= 128), the time is the weights' way from DRAM.
// docs/kernels/fp8_block_gemm.md.
//
// The weights are WGMMA's 64-row operand A, the tokens its narrow operand B: y^T = W x^T. A unit is
// 128 k of one group of 64 x Groups weight rows; each CTA takes an equal run of units, K fastest,
// through a ring of shared-memory slots:
//   producer  fills the ring with weights, waits for the predecessor, then adds the activations
//   consumers (Groups warpgroups, 64 rows each): 4 products of 32 k, scale, add
// A row group that several CTAs share is summed in the CTAs' order: the same result each time.
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

constexpr int kMaxUnits = 512;  // of one CTA: their weight scales lie in shared memory

template <class Y>
struct Arguments {
  const uint8_t* w;
  const float* w_scale;
  const float* x_scale;
  Y* y;
  float* partial;      // [ctas][2][Groups][N / 2][128]
  uint32_t* arrivals;  // one word a row group, zero
  int64_t y_stride;
  int M, N;  // tokens, outputs
  int x_scale_columns;
  bool wide_rows;  // of y: at multiples of 16 bytes
  StreamPlan plan;
};

template <int Groups, int Tokens, int Stages, class Y>
struct SharedStorage {
  static constexpr int kChunk = Tokens < 32 ? Tokens : 32;  // tokens stored at a time
  static constexpr int kPad = 16 / sizeof(Y);
  uint8_t w[Stages][Groups * kTileBytes];
  uint8_t x[Stages][Tokens * kTileRowBytes];
  float x_scale[Stages][Tokens];
  Y out[Groups][kChunk][kTileRows + kPad];
  Barrier full[Stages], empty[Stages];
  bool last;
  float w_scale[kMaxUnits];  // only as many as the plan's units_per_cta
};

template <int Groups, int Tokens, int Stages, class Y>
struct Stream {
  using Storage = SharedStorage<Groups, Tokens, Stages, Y>;
  static constexpr int kConsumers = Groups * 128;
  static constexpr int kAccumulators = Tokens / 2;
  static constexpr uint32_t kWeightBytes = Groups * kTileBytes;

  const Arguments<Y>& a;
  Storage& s;
  int begin, end;  // units

  __device__ uint32_t scale_bytes() const {
    return static_cast<uint32_t>(min(a.x_scale_columns, Tokens)) * sizeof(float);
  }

  // Weights of a row group are consecutive along K; a second group of 64 rows follows after all
  // blocks of the first.
  __device__ void load_weights(int unit, int stage) {
    s.full[stage].arrive_expect(
        kWeightBytes + Tokens * static_cast<uint32_t>(kTileRowBytes) + scale_bytes()
    );
    const int group = unit / a.plan.blocks, block = unit % a.plan.blocks;
    const int tiles = (a.N + 63) / 64;
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
      // Beyond the last tile the last one is read again; its outputs are not stored.
      const int64_t tile = min(group * Groups + g, tiles - 1);
      device::bulk_load(
          s.w[stage] + g * kTileBytes,
          a.w + (tile * a.plan.blocks + block) * kTileBytes,
          kTileBytes,
          s.full[stage],
          device::kEvictFirst
      );
    }
  }

  __device__ void load_activations(const device::TensorMap& x, int unit, int stage) {
    const int block = unit % a.plan.blocks;
    device::box_load(s.x[stage], x, block * 128, 0, s.full[stage], device::kEvictLast);
    device::bulk_load(
        s.x_scale[stage],
        a.x_scale + static_cast<int64_t>(block) * a.x_scale_columns,
        scale_bytes(),
        s.full[stage],
        device::kEvictLast
    );
  }

  __device__ int first_pass() const {
    return min(Stages, end - begin);
  }

  // The ring is full of weights before the predecessor has ended; activations follow it. The
  // successor may start as early: it fills its own ring beside this kernel.
  __device__ void fill() {
    for (int i = 0; i < first_pass(); ++i) load_weights(begin + i, i);
    device::launch_successor();
  }

  __device__ void produce(const device::TensorMap& x) {
    device::wait_for_predecessor();
    for (int i = 0; i < first_pass(); ++i) load_activations(x, begin + i, i);
    Ring<Stages> ring;
    for (int unit = begin + Stages; unit < end; ++unit) {
      s.empty[ring.stage].wait(ring.full_parity());  // the slot's first emptying is phase 0
      load_weights(unit, ring.stage);
      load_activations(x, unit, ring.stage);
      ring.advance();
    }
  }

  // Stores the sums of 8 x Octets tokens from `first_token` on and the row group's outputs;
  // `values` are this thread's part, in fragment order.
  template <int Octets>
  __device__ void store_tokens(const float* values, int group, int first_token) {
    constexpr int kVector = 16 / sizeof(Y);
    const int thread = static_cast<int>(threadIdx.x) % 128, g = static_cast<int>(threadIdx.x) / 128;
    const int row = thread / 32 * 16 + thread % 32 / 4, token = thread % 4 * 2;
    const int first_row = (group * Groups + g) * 64;
    const int rows = min(64, a.N - first_row);
    device::named_barrier<1>(kConsumers);
#pragma unroll
    for (int i = 0; i < Octets * 4; ++i) {
      Vec<Y>::store(&s.out[g][i / 4 * 8 + token + i % 2][row + i / 2 % 2 * 8], values[i]);
    }
    device::named_barrier<1>(kConsumers);
    const int tokens = min(8 * Octets, a.M - first_token);
    if (rows == 64 && a.wide_rows) {
      constexpr int kVectors = 64 / kVector;  // of a token's 64 outputs
      for (int v = thread; v < tokens * kVectors; v += 128) {
        const int t = v / kVectors, column = v % kVectors * kVector;
        Y* y = a.y + (first_token + t) * a.y_stride + first_row + column;
        *reinterpret_cast<uint4*>(y) = *reinterpret_cast<const uint4*>(&s.out[g][t][column]);
      }
    } else {
      for (int v = thread; v < tokens * 64; v += 128) {
        const int t = v / 64, column = v % 64;
        if (column < rows)
          a.y[(first_token + t) * a.y_stride + first_row + column] = s.out[g][t][column];
      }
    }
  }

  __device__ void store(const float (&sum)[kAccumulators], int group) {
    constexpr int kChunk = Storage::kChunk;
#pragma unroll
    for (int token = 0; token < Tokens; token += kChunk) {
      if (token < a.M) store_tokens<kChunk / 8>(sum + token / 2, group, token);
    }
  }

  // The CTAs that share a row group.
  __device__ int first_sharer(int group) const {
    return group * a.plan.blocks / a.plan.units_per_cta;
  }
  __device__ int last_sharer(int group) const {
    return min(((group + 1) * a.plan.blocks - 1) / a.plan.units_per_cta, a.plan.ctas - 1);
  }

  __device__ float* partial_sums(int cta, int group) const {
    const int first = cta * a.plan.units_per_cta;
    const bool starts_inside = first % a.plan.blocks != 0 && first / a.plan.blocks == group;
    return a.partial +
           static_cast<int64_t>(cta * 2 + (starts_inside ? 0 : 1)) * Groups * kAccumulators * 128;
  }

  // Leaves this CTA's part of a shared row group in memory; the last CTA to come adds all parts up.
  __device__ void share(float (&sum)[kAccumulators], int group) {
    float* mine = partial_sums(static_cast<int>(blockIdx.x), group);
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) __stcg(mine + i * kConsumers + threadIdx.x, sum[i]);
    device::named_barrier<1>(kConsumers);
    if (threadIdx.x == 0) {
      const auto sharers = static_cast<uint32_t>(last_sharer(group) - first_sharer(group) + 1);
      s.last = device::arrive_counter(a.arrivals + group) + 1 == sharers;
      if (s.last) a.arrivals[group] = 0;
    }
    device::named_barrier<1>(kConsumers);
    if (!s.last) return;
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) sum[i] = 0;
#pragma unroll 4
    for (int cta = first_sharer(group); cta <= last_sharer(group); ++cta) {
      const float* part = partial_sums(cta, group) + threadIdx.x;
#pragma unroll
      for (int i = 0; i < kAccumulators; ++i) sum[i] += __ldcg(part + i * kConsumers);
    }
    store(sum, group);
  }

  __device__ void consume() {
    const int g = static_cast<int>(threadIdx.x) / 128;
    const int token = static_cast<int>(threadIdx.x) % 4 * 2;
    const uint64_t w = device::operand_descriptor(s.w[0] + g * kTileBytes);
    const uint64_t x = device::operand_descriptor(s.x[0]);
    float sum[kAccumulators], block_sum[kAccumulators];
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) sum[i] = 0;
    device::wait_for_predecessor();
    Ring<Stages> ring;
    int group = begin / a.plan.blocks, block = begin % a.plan.blocks, first_block = block;
    for (int unit = begin; unit < end; ++unit) {
      const int stage = ring.stage;
      s.full[stage].wait(ring.full_parity());
      device::wgmma_fence();
      device::mma_e4m3_tile(
          block_sum,
          w + static_cast<uint64_t>(stage * static_cast<int>(kWeightBytes / 16)),
          x + static_cast<uint64_t>(stage * (Tokens * static_cast<int>(kTileRowBytes) / 16))
      );
      device::wgmma_commit();
      const float w_scale = s.w_scale[unit - begin];
      float scale[Tokens / 4];
#pragma unroll
      for (int j = 0; j < Tokens / 8; ++j) {
        const float2 pair = *reinterpret_cast<const float2*>(&s.x_scale[stage][8 * j + token]);
        scale[2 * j] = w_scale * pair.x;
        scale[2 * j + 1] = w_scale * pair.y;
      }
      device::wgmma_wait<0>();
      device::pin(block_sum);
      if (threadIdx.x % 32 == 0) s.empty[stage].arrive();
      ring.advance();
#pragma unroll
      for (int i = 0; i < kAccumulators; ++i)
        sum[i] = fmaf(scale[i / 4 * 2 + i % 2], block_sum[i], sum[i]);
      if (++block < a.plan.blocks && unit + 1 < end) continue;
      if (first_block == 0 && block == a.plan.blocks) {
        store(sum, group);
      } else {
        share(sum, group);
      }
#pragma unroll
      for (int i = 0; i < kAccumulators; ++i) sum[i] = 0;
      first_block = block = 0;
      ++group;
    }
  }
};

template <int Groups, int Tokens, int Stages, int Resident, class Y>
__global__ void __launch_bounds__(Groups * 128 + 32, Resident)
    stream(const Arguments<Y> a, const __grid_constant__ device::TensorMap x) {
  extern __shared__ __align__(1024) uint8_t memory[];
  using Work = Stream<Groups, Tokens, Stages, Y>;
  auto& s = *reinterpret_cast<typename Work::Storage*>(memory);
  const int begin = static_cast<int>(blockIdx.x) * a.plan.units_per_cta;
  Work work{a, s, begin, min(begin + a.plan.units_per_cta, a.plan.groups * a.plan.blocks)};
  const bool producer = threadIdx.x == Work::kConsumers;
  if (producer) {
    device::prefetch_map(x);
    for (int i = 0; i < Stages; ++i) {
      s.full[i].init(1);
      s.empty[i].init(Work::kConsumers / 32);
    }
    device::fence_barrier_init();
    work.fill();
  }
  for (int i = static_cast<int>(threadIdx.x); i < work.end - begin; i += Work::kConsumers) {
    const int unit = begin + i;
    const int row = unit / a.plan.blocks * Groups / 2;
    s.w_scale[i] =
        __ldg(a.w_scale + static_cast<int64_t>(row) * a.plan.blocks + unit % a.plan.blocks);
  }
  __syncthreads();
  if (producer) {
    work.produce(x);
  } else if (threadIdx.x < Work::kConsumers) {
    work.consume();
  }
}

// One CTA an SM; Resident of them fit, so that the successor's fills its ring beside it. (Two
// smaller ones an SM were faster for short rows of K, but then a successor's CTAs crowd the SMs
// that end early: docs/kernels/fp8_block_gemm.md.)
template <int Groups, int Tokens, int Stages, int Resident, class Y>
void run(Exec& exec, const Fp8BlockGemm& args) {
  using Storage = SharedStorage<Groups, Tokens, Stages, Y>;
  const int64_t M = args.x.dim(0), N = args.y.dim(1), K = args.x.dim(1);
  const int64_t groups = (N + 64 * Groups - 1) / (64 * Groups);
  const StreamPlan plan = plan_stream(groups, K / 128, cuda::multiprocessors(exec.device.index));
  CHECK(plan.units_per_cta <= kMaxUnits, "{} units a CTA", plan.units_per_cta);
  Workspace::Mark mark(*exec.workspace);
  Arguments<Y> a{
      .w = args.w.data.as<uint8_t>(),
      .w_scale = args.w.scale.as<float>(),
      .x_scale = args.x_scale.as<float>(),
      .y = static_cast<Y*>(args.y.data),
      .partial = nullptr,
      .arrivals = exec.semaphores,
      .y_stride = args.y.stride(0),
      .M = static_cast<int>(M),
      .N = static_cast<int>(N),
      .x_scale_columns = static_cast<int>(args.x_scale.dim(1)),
      .wide_rows = reinterpret_cast<uintptr_t>(args.y.data) % 16 == 0 &&
                   args.y.stride(0) * sizeof(Y) % 16 == 0,
      .plan = plan,
  };
  if (plan.shared_groups()) {
    const int64_t floats = int64_t{plan.ctas} * 2 * Groups * 64 * Tokens;
    a.partial = exec.workspace->alloc(DType::f32, {floats}).as<float>();
  }
  const cuda::TensorMap x = cuda::make_matrix_map(
      args.x.data, DType::u8, M, K, args.x.stride(0), Tokens, 128, cuda::Swizzle::bytes128
  );
  const int shared = static_cast<int>(
      offsetof(Storage, w_scale) + sizeof(float) * static_cast<size_t>(plan.units_per_cta)
  );
  cuda::launch(
      exec,
      "fp8_block_gemm",
      {.grid = dim3(static_cast<unsigned>(plan.ctas)),
       .threads = Groups * 128 + 32,
       .shared_bytes = shared},
      stream<Groups, Tokens, Stages, Resident, Y>,
      a,
      x
  );
}

template <class Y>
void run_by_tokens(Exec& exec, const Fp8BlockGemm& args) {
  const int64_t M = args.x.dim(0);
  if (M == 0) return;
  if (M <= 8) return run<2, 8, 6, 2, Y>(exec, args);
  if (M <= 16) return run<2, 16, 5, 2, Y>(exec, args);
  if (M <= 32) return run<2, 32, 5, 2, Y>(exec, args);
  if (M <= 64) return run<2, 64, 4, 2, Y>(exec, args);
  run<2, 128, 6, 1, Y>(exec, args);
}

}  // namespace

bool fp8_block_gemm_takes_stream(const Exec& exec, const Fp8BlockGemm& args) {
  constexpr int64_t kTokens = 128;
  const int64_t units = (args.y.dim(1) + 63) / 64 * (args.x.dim(1) / 128);
  return args.w.data.dtype == DType::f8e4m3x64 && args.x_scale.defined() &&
         args.x.dim(0) <= kTokens &&
         units / cuda::multiprocessors(exec.device.index) < kMaxUnits / 2 &&
         (args.y.dim(1) + 63) / 64 <= Exec::kSemaphoreWords && args.x.stride(0) % 16 == 0;
}

void fp8_block_gemm_stream_sm90(Exec& exec, const Fp8BlockGemm& args) {
  args.y.dtype == DType::f32 ? run_by_tokens<float>(exec, args)
                             : run_by_tokens<__nv_bfloat16>(exec, args);
}

}  // namespace fathom::ops
