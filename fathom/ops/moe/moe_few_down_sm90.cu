// grouped_moe, row few_sm90, second product: y = sum over experts of weighted h down^T.
// docs/kernels/grouped_moe.md.
//
// Each CTA owns 64 outputs of all tokens and walks through the experts in order, so that they add
// up in ascending order in its shared memory: no slots of products go through memory. Where that
// leaves SMs idle, several CTAs share 64 outputs and cut the experts between them; the last to come
// adds their parts in order. Every CTA makes the routes by itself, so that a producer warp fills
// the ring with weights before h is there.
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/async_copy.cuh"
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

constexpr int kTokens = FewRoutes::kTokens;
constexpr int kSums = kTokens / 2;  // a thread
constexpr int kConsumers = 128;
constexpr int kOutputs = 64;  // of a CTA
constexpr int kStages = 4;
constexpr int kStride = 72;  // floats of a token's sums
constexpr int kSharers = 8;  // CTAs that share outputs, at most

struct Arguments {
  MoeChoice choice;
  const float* h_scale;  // MoeHidden
  const uint8_t* w;
  const float* w_scale;  // [E][C / 128][blocks]
  const __nv_bfloat16* addend;
  __nv_bfloat16* y;
  int64_t addend_stride, y_stride;
  float* partial;      // [sharers][T][C]
  uint32_t* arrivals;  // a word per 64 outputs, zero
  int T, C, blocks, sharers;
};

// A slot holds two blocks of K, the last one of an odd number alone.
struct SharedStorage {
  uint8_t w[kStages][2][kTileBytes];
  uint8_t h[kStages][2][kTokens * kTileRowBytes];
  alignas(16) float scale[kStages][2][kTokens];
  alignas(16) int token[kStages][kTokens];
  float w_scale[kStages][2];
  Barrier full[kStages], empty[kStages];
  bool last;
  FewRoutes routes;
  alignas(16) float sums[kTokens][kStride];
};

template <bool Fp8>
struct Down {
  using Storage = SharedStorage;

  const Arguments& a;
  Storage& s;
  int outputs, begin, end;  // of the CTA: which 64 outputs; slots
  int per_item;             // slots

  __device__ Down(const Arguments& arguments, Storage& storage) : a(arguments), s(storage) {
    per_item = (a.blocks + 1) / 2;
    const int slots = s.routes.items * per_item;
    const int sharer = static_cast<int>(blockIdx.x) % a.sharers;
    outputs = static_cast<int>(blockIdx.x) / a.sharers;
    begin = static_cast<int>(int64_t{slots} * sharer / a.sharers);
    end = static_cast<int>(int64_t{slots} * (sharer + 1) / a.sharers);
  }

  // Where a loader stands: slot by slot through the items.
  struct Cursor {
    int item, pair, expert;
  };
  __device__ Cursor cursor_at(int slot) const {
    const int item = slot / per_item;
    return {item, slot - item * per_item, slot < end ? s.routes.expert[item] : 0};
  }
  __device__ void advance(Cursor& at) const {
    if (++at.pair < per_item) return;
    at.pair = 0;
    if (++at.item * per_item < end) at.expert = s.routes.expert[at.item];
  }

  // By one warp: two tiles of weights, their scales, and the tokens of the item's rows.
  __device__ void load_weights(const Cursor& at, int stage, int lane) {
    const int block = 2 * at.pair, count = min(2, a.blocks - block);
    if (lane == 0) {
      const int scales = Fp8 ? count : 0;
      s.full[stage].arrive_expect(static_cast<uint32_t>(
          count * kTileBytes + 2 * kTokens * kTileRowBytes +
          scales * kTokens * static_cast<int>(sizeof(float))
      ));
      const int64_t tile = int64_t{at.expert} * (a.C / kOutputs) + outputs;
      device::bulk_load(
          s.w[stage],
          a.w + (tile * a.blocks + block) * kTileBytes,
          static_cast<uint32_t>(count * kTileBytes),
          s.full[stage],
          device::kEvictFirst
      );
    }
    if (Fp8 && lane < count) {
      const int64_t row = int64_t{at.expert} * (a.C / 128) + outputs / 2;
      device::copy_4_async(&s.w_scale[stage][lane], a.w_scale + row * a.blocks + block + lane);
    }
    if (lane < kTokens) {
      const int place = at.item * kTokens + lane;
      s.token[stage][lane] = s.routes.token[place];
      if (!Fp8) s.scale[stage][0][lane] = s.routes.weight[place];
    }
    device::arrive_after_copies(s.full[stage]);
    s.full[stage].arrive();  // after what was stored, not copied
  }

  // By one thread.
  __device__ void load_rows(const device::TensorMap& h, const Cursor& at, int stage) {
    const int block = 2 * at.pair, count = min(2, a.blocks - block);
    device::box_load_3d(
        s.h[stage], h, 0, at.item * kTokens, block, s.full[stage], device::kEvictNormal
    );
    if (!Fp8) return;
    device::bulk_load(
        s.scale[stage],
        a.h_scale + (int64_t{at.item} * a.blocks + block) * kTokens,
        static_cast<uint32_t>(count * kTokens * static_cast<int>(sizeof(float))),
        s.full[stage],
        device::kEvictNormal
    );
  }

  __device__ void produce(const device::TensorMap& h) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int first_pass = min(kStages, end - begin);
    Cursor at = cursor_at(begin);
    for (int i = 0; i < first_pass; ++i, advance(at)) load_weights(at, i, lane);
    device::launch_successor();
    device::wait_for_predecessor();
    Cursor behind = cursor_at(begin);
    for (int i = 0; i < first_pass; ++i, advance(behind)) {
      if (lane == 0) load_rows(h, behind, i);
    }
    Ring<kStages> ring;
    for (int slot = begin + kStages; slot < end; ++slot, advance(at)) {
      s.empty[ring.stage].wait(ring.full_parity());  // the slot's first emptying is phase 0
      load_weights(at, ring.stage, lane);
      if (lane == 0) load_rows(h, at, ring.stage);
      ring.advance();
    }
  }

  // Adds an item's products to its tokens' sums. A lane's rows are its warp's alone: lanes of one
  // warp meet at a token in different items only.
  __device__ void scatter(const float (&sum)[kSums], int stage) {
    const int thread = static_cast<int>(threadIdx.x), column = thread % 4 * 2;
    const int row = thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      const int2 tokens = *reinterpret_cast<const int2*>(&s.token[stage][8 * j + column]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int token = i == 0 ? tokens.x : tokens.y;
        if (token < 0) continue;
        s.sums[token][row] += sum[4 * j + i];
        s.sums[token][row + 8] += sum[4 * j + i + 2];
      }
    }
    __syncwarp();
  }

  __device__ void add(float (&sum)[kSums], const float (&products)[kSums], int stage, int part) {
    promote(sum, products, Fp8 ? s.w_scale[stage][part] : 1.0f, s.scale[stage][Fp8 ? part : 0]);
  }

  __device__ void products_of(float (&products)[kSums], int stage, int part) {
    const uint64_t w = device::operand_descriptor(s.w[stage][part]);
    const uint64_t h = device::operand_descriptor(s.h[stage][part]);
    if constexpr (Fp8) {
      device::mma_e4m3_tile(products, w, h);
    } else {
      mma_bf16_tile(products, w, h, false);
    }
  }

  __device__ void multiply_one(float (&sum)[kSums], int stage) {
    float products[kSums];
    device::wgmma_fence();
    products_of(products, stage, 0);
    device::wgmma_commit();
    device::wgmma_wait<0>();
    device::pin(products);
    add(sum, products, stage, 0);
  }

  // Both blocks at once: their latency is one.
  __device__ void multiply_two(float (&sum)[kSums], int stage) {
    float first[kSums], second[kSums];
    device::wgmma_fence();
    products_of(first, stage, 0);
    products_of(second, stage, 1);
    device::wgmma_commit();
    device::wgmma_wait<0>();
    device::pin(first);
    device::pin(second);
    add(sum, first, stage, 0);
    add(sum, second, stage, 1);
  }

  __device__ void consume_slots() {
    float sum[kSums];
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum[i] = 0;
    Ring<kStages> ring;
    int pair = begin % per_item;
    for (int slot = begin; slot < end; ++slot) {
      const int stage = ring.stage;
      s.full[stage].wait(ring.full_parity());
      if (2 * pair + 1 < a.blocks) {
        multiply_two(sum, stage);
      } else {
        multiply_one(sum, stage);
      }
      if (++pair == per_item || slot + 1 == end) {
        scatter(sum, stage);
#pragma unroll
        for (int i = 0; i < kSums; ++i) sum[i] = 0;
        pair = 0;
      }
      __syncwarp();
      if (threadIdx.x % 32 == 0) s.empty[stage].arrive();
      ring.advance();
    }
  }

  // f(token, output of the CTA's 64): each pair of outputs of each token once.
  template <class F>
  __device__ void for_each_pair(F f) const {
    for (int i = static_cast<int>(threadIdx.x); i < a.T * kOutputs / 2; i += kConsumers)
      f(i / (kOutputs / 2), i % (kOutputs / 2) * 2);
  }

  __device__ void store(int token, int output, float2 v) const {
    const int64_t n = int64_t{outputs} * kOutputs + output;
    if (a.addend != nullptr) {
      const uint32_t pair =
          __ldcg(reinterpret_cast<const unsigned*>(a.addend + token * a.addend_stride + n));
      v.x += device::low_bf16(pair);
      v.y += device::high_bf16(pair);
    }
    *reinterpret_cast<uint32_t*>(a.y + token * a.y_stride + n) = device::pack_bf16(v.x, v.y);
  }

  // Parts of the CTAs that share the outputs, added in their order by the last to come.
  __device__ void share() {
    const auto part = [&](int sharer, int token, int output) {
      return reinterpret_cast<float2*>(
          a.partial + (int64_t{sharer} * a.T + token) * a.C + int64_t{outputs} * kOutputs + output
      );
    };
    const int mine = static_cast<int>(blockIdx.x) % a.sharers;
    for_each_pair([&](int token, int output) {
      __stcg(part(mine, token, output), *reinterpret_cast<const float2*>(&s.sums[token][output]));
    });
    device::named_barrier<1>(kConsumers);
    if (threadIdx.x == 0) {
      s.last = device::arrive_counter(a.arrivals + outputs) + 1 == static_cast<uint32_t>(a.sharers);
      if (s.last) a.arrivals[outputs] = 0;
    }
    device::named_barrier<1>(kConsumers);
    if (!s.last) return;
    for_each_pair([&](int token, int output) {
      float2 v = {0, 0};
      float2 parts[kSharers];
#pragma unroll
      for (int i = 0; i < kSharers; ++i)
        parts[i] = i < a.sharers ? __ldcg(part(i, token, output)) : float2{0, 0};
#pragma unroll
      for (int i = 0; i < kSharers; ++i) {
        v.x += parts[i].x;
        v.y += parts[i].y;
      }
      store(token, output, v);
    });
  }

  __device__ void consume() {
    for (int i = static_cast<int>(threadIdx.x); i < kTokens * kStride; i += kConsumers)
      s.sums[i / kStride][i % kStride] = 0;
    device::wait_for_predecessor();
    device::named_barrier<1>(kConsumers);
    consume_slots();
    device::named_barrier<1>(kConsumers);
    if (a.sharers > 1) {
      share();
    } else {
      for_each_pair([&](int token, int output) {
        store(token, output, *reinterpret_cast<const float2*>(&s.sums[token][output]));
      });
    }
  }
};

template <bool Fp8>
__global__ void __launch_bounds__(kConsumers + 32, 2)
    down_of_few(const Arguments a, const __grid_constant__ device::TensorMap h) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage*>(memory);
  if (threadIdx.x == kConsumers) {
    device::prefetch_map(h);
    for (int i = 0; i < kStages; ++i) {
      s.full[i].init(1 + 2 * 32);
      s.empty[i].init(kConsumers / 32);
    }
    device::fence_barrier_init();
  }
  s.routes.make(a.choice);  // the choice was there before the predecessor began
  Down<Fp8> work(a, s);
  if (threadIdx.x >= kConsumers) {
    work.produce(h);
  } else {
    work.consume();
  }
}

// CTAs that share outputs.
int sharers_of(int64_t columns, int processors) {
  constexpr int kResident = 2;  // CTAs of an SM
  return std::clamp(static_cast<int>(kResident * processors / columns), 1, kSharers);
}

}  // namespace

void moe_few_down(Exec& exec, const GroupedMoe& args, const MoeHidden& h) {
  const bool fp8 = args.quantise_activations;
  const int64_t T = args.x.dim(0), C = args.x.dim(1), I = args.down.data.dim(2);
  Arguments a{
      .choice = choice_of(args),
      .h_scale = h.scale,
      .w = static_cast<const uint8_t*>(args.down.data.data),
      .w_scale = static_cast<const float*>(args.down.scale.data),
      .addend = static_cast<const __nv_bfloat16*>(args.addend.data),
      .y = static_cast<__nv_bfloat16*>(args.y.data),
      .addend_stride = args.addend.defined() ? args.addend.stride(0) : 0,
      .y_stride = args.y.stride(0),
      .partial = nullptr,
      .arrivals = exec.semaphores + Exec::kSemaphoreWords / 2,
      .T = static_cast<int>(T),
      .C = static_cast<int>(C),
      .blocks = static_cast<int>(I * (fp8 ? 1 : 2) / kTileRowBytes),
      .sharers = sharers_of(C / kOutputs, cuda::multiprocessors(exec.device.index)),
  };
  if (a.sharers > 1) a.partial = exec.workspace->alloc(DType::f32, {a.sharers, T, C}).as<float>();
  cuda::launch(
      exec,
      "grouped_moe",
      {.grid = dim3(static_cast<unsigned>(C / kOutputs * a.sharers)),
       .threads = kConsumers + 32,
       .shared_bytes = sizeof(SharedStorage)},
      fp8 ? down_of_few<true> : down_of_few<false>,
      a,
      map_of_hidden(args, h, kTokens, 2)
  );
}

}  // namespace fathom::ops
