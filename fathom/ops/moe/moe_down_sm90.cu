// The third launch of grouped_moe, for few tokens: y = sum over experts of weighted h down^T.
// docs/kernels/grouped_moe.md.
//
// Each CTA owns 64 outputs of all tokens and walks through the items in order, so that experts add
// up in ascending order in its shared memory: no slots of products go through memory. Where that
// leaves SMs idle, several CTAs share 64 outputs and cut the units between them; the last to come
// adds their parts in order. The routes are known when this kernel starts, so that a producer
// thread fills the ring with weights before h is there.
#include <algorithm>
#include <type_traits>

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

constexpr int kConsumers = 128;
constexpr int kOutputs = 64;  // of a CTA
constexpr int kStride = 72;   // floats of a token's sums
constexpr int kSharers = 8;   // CTAs that share outputs, at most

struct Arguments {
  MoeRoutes routes;
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
template <int Tokens, int Stages, bool Few>
struct SharedStorage {
  uint8_t w[Stages][2][kTileBytes];
  uint8_t h[Stages][2][Tokens * kTileRowBytes];
  alignas(16) float scale[Stages][2][Tokens];
  alignas(16) int token[Stages][Tokens];
  float w_scale[Stages][2];
  Barrier full[Stages], empty[Stages];
  bool last;
  std::conditional_t<Few, FewRoutes, char> few;
  alignas(16) float sums[1];  // [T][kStride]; then the items' experts, [max_items]
};

template <bool Fp8, int Tokens, int Stages, bool Few>
struct Down {
  using Storage = SharedStorage<Tokens, Stages, Few>;
  static constexpr int kSums = Tokens / 2;           // a thread
  static constexpr bool kScaleCopied = Fp8 || !Few;  // else the routing weights are at hand

  const Arguments& a;
  Storage& s;
  RoutesView routes;
  int outputs, begin, end;  // of the CTA: which 64 outputs; slots
  int per_item;             // slots

  __device__ static const FewRoutes* few_of(Storage& storage) {
    if constexpr (Few) return &storage.few;
    return nullptr;
  }

  // Reads the routes, or the ids, which the kernel before this one's predecessor wrote.
  __device__ Down(const Arguments& arguments, Storage& storage)
      : a(arguments), s(storage), routes{arguments.routes, few_of(storage)} {
    per_item = (a.blocks + 1) / 2;
    const int slots = routes.items() * per_item;
    const int sharer = static_cast<int>(blockIdx.x) % a.sharers;
    outputs = static_cast<int>(blockIdx.x) / a.sharers;
    begin = static_cast<int>(int64_t{slots} * sharer / a.sharers);
    end = static_cast<int>(int64_t{slots} * (sharer + 1) / a.sharers);
  }

  __device__ int* experts() const { return reinterpret_cast<int*>(s.sums + a.T * kStride); }

  // Where a loader stands: slot by slot through the items.
  struct Cursor {
    int item, pair, expert;
  };
  __device__ Cursor cursor_at(int slot) const {
    const int item = slot / per_item;
    return {item, slot - item * per_item, slot < end ? experts()[item] : 0};
  }
  __device__ void advance(Cursor& at) const {
    if (++at.pair < per_item) return;
    at.pair = 0;
    if (++at.item * per_item < end) at.expert = experts()[at.item];
  }

  // By one warp: two tiles of weights, their scales, and the tokens of the item's rows.
  __device__ void load_weights(const Cursor& at, int stage, int lane) {
    const int block = 2 * at.pair, count = min(2, a.blocks - block);
    if (lane == 0) {
      const int scales = kScaleCopied ? (Fp8 ? count : 1) : 0;
      s.full[stage].arrive_expect(static_cast<uint32_t>(
          count * kTileBytes + 2 * Tokens * kTileRowBytes +
          scales * Tokens * static_cast<int>(sizeof(float))
      ));
      const int64_t tile = int64_t{at.expert} * (a.C / kOutputs) + outputs;
      device::bulk_load(
          s.w[stage],
          a.w + (tile * a.blocks + block) * kTileBytes,
          static_cast<uint32_t>(count * kTileBytes),
          s.full[stage],
          device::kEvictNormal
      );
    }
    if (Fp8 && lane < count) {
      const int64_t row = int64_t{at.expert} * (a.C / 128) + outputs / 2;
      device::copy_4_async(&s.w_scale[stage][lane], a.w_scale + row * a.blocks + block + lane);
    }
    if (lane < Tokens) {
      const int place = at.item * Tokens + lane;
      if constexpr (Few) {
        s.token[stage][lane] = routes.token(place);
        if (!Fp8) s.scale[stage][0][lane] = routes.weight(place);
      } else {
        device::copy_4_async(&s.token[stage][lane], a.routes.token + place);
      }
    }
    device::arrive_after_copies(s.full[stage]);
    if constexpr (Few) s.full[stage].arrive();  // after what was stored, not copied
  }

  // By one thread.
  __device__ void load_rows(const device::TensorMap& h, const Cursor& at, int stage) {
    const int block = 2 * at.pair, count = min(2, a.blocks - block);
    device::box_load_3d(
        s.h[stage], h, 0, at.item * Tokens, block, s.full[stage], device::kEvictNormal
    );
    if (!kScaleCopied) return;
    const int64_t line = Fp8 ? int64_t{at.item} * a.blocks + block : at.item;
    device::bulk_load(
        s.scale[stage],
        a.h_scale + line * Tokens,
        static_cast<uint32_t>((Fp8 ? count : 1) * Tokens * static_cast<int>(sizeof(float))),
        s.full[stage],
        device::kEvictNormal
    );
  }

  __device__ void produce(const device::TensorMap& h) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int first_pass = min(Stages, end - begin);
    Cursor at = cursor_at(begin);
    for (int i = 0; i < first_pass; ++i, advance(at)) load_weights(at, i, lane);
    device::launch_successor();
    device::wait_for_predecessor();
    Cursor behind = cursor_at(begin);
    for (int i = 0; i < first_pass; ++i, advance(behind)) {
      if (lane == 0) load_rows(h, behind, i);
    }
    Ring<Stages> ring;
    for (int slot = begin + Stages; slot < end; ++slot, advance(at)) {
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
    for (int j = 0; j < Tokens / 8; ++j) {
      const int2 tokens = *reinterpret_cast<const int2*>(&s.token[stage][8 * j + column]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int token = i == 0 ? tokens.x : tokens.y;
        if (token < 0) continue;
        s.sums[token * kStride + row] += sum[4 * j + i];
        s.sums[token * kStride + row + 8] += sum[4 * j + i + 2];
      }
    }
    __syncwarp();
  }

  __device__ void add(float (&sum)[kSums], const float (&products)[kSums], int stage, int part) {
    const int column = static_cast<int>(threadIdx.x) % 4 * 2;
    const float w_scale = Fp8 ? s.w_scale[stage][part] : 1.0f;
    const float* of_rows = s.scale[stage][Fp8 ? part : 0];
#pragma unroll
    for (int j = 0; j < Tokens / 8; ++j) {
      const float2 scale = *reinterpret_cast<const float2*>(of_rows + 8 * j + column);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float both = w_scale * (i % 2 == 0 ? scale.x : scale.y);
        sum[4 * j + i] = fmaf(both, products[4 * j + i], sum[4 * j + i]);
      }
    }
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
    Ring<Stages> ring;
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
      __stcg(
          part(mine, token, output),
          *reinterpret_cast<const float2*>(&s.sums[token * kStride + output])
      );
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
    for (int i = static_cast<int>(threadIdx.x); i < a.T * kStride; i += kConsumers) s.sums[i] = 0;
    device::wait_for_predecessor();
    device::named_barrier<1>(kConsumers);
    consume_slots();
    device::named_barrier<1>(kConsumers);
    if (a.sharers > 1) {
      share();
    } else {
      for_each_pair([&](int token, int output) {
        store(token, output, *reinterpret_cast<const float2*>(&s.sums[token * kStride + output]));
      });
    }
  }
};

template <bool Fp8, int Tokens, int Stages, bool Few>
__global__ void __launch_bounds__(kConsumers + 32, Tokens == 8 ? 2 : 1)
    down(const Arguments a, const __grid_constant__ device::TensorMap h) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<Tokens, Stages, Few>*>(memory);
  if (threadIdx.x == kConsumers) {
    device::prefetch_map(h);
    for (int i = 0; i < Stages; ++i) {
      s.full[i].init(1 + 32 + (Few ? 32 : 0));
      s.empty[i].init(kConsumers / 32);
    }
    device::fence_barrier_init();
  }
  if constexpr (Few) s.few.make(a.choice);
  Down<Fp8, Tokens, Stages, Few> work(a, s);
  for (int i = static_cast<int>(threadIdx.x); i < work.routes.items(); i += kConsumers + 32)
    work.experts()[i] = work.routes.expert(i);
  __syncthreads();
  if (threadIdx.x >= kConsumers) {
    work.produce(h);
  } else {
    work.consume();
  }
}

template <bool Fp8, int Tokens, int Stages, bool Few = false>
void run(const Exec& exec, const Arguments& a, const cuda::TensorMap& h) {
  using Storage = SharedStorage<Tokens, Stages, Few>;
  const auto bytes =
      offsetof(Storage, sums) + sizeof(float) * (static_cast<size_t>(a.T) * kStride +
                                                 static_cast<size_t>(a.routes.max_items));
  cuda::launch(
      exec,
      "grouped_moe",
      {.grid = dim3(static_cast<unsigned>(a.C / kOutputs * a.sharers)),
       .threads = kConsumers + 32,
       .shared_bytes = static_cast<int>(bytes)},
      down<Fp8, Tokens, Stages, Few>,
      a,
      h
  );
}

}  // namespace

void moe_down(Exec& exec, const GroupedMoe& args, const MoeRoutes& routes, const MoeHidden& h) {
  const bool fp8 = args.quantise_activations;
  const int64_t T = args.x.dim(0), C = args.x.dim(1), I = args.down.data.dim(2);
  const int sms = cuda::multiprocessors(exec.device.index);
  const int resident = routes.width == 8 ? 2 : 1;  // CTAs of an SM
  Arguments a{
      .routes = routes,
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
      .sharers = std::clamp(static_cast<int>(resident * sms / (C / kOutputs)), 1, kSharers),
  };
  if (a.sharers > 1) a.partial = exec.workspace->alloc(DType::f32, {a.sharers, T, C}).as<float>();
  const cuda::TensorMap map = map_of_hidden(args, routes, h, 2);
  const bool few = routes.items == nullptr;
  if (fp8) {
    if (few) run<true, 8, 4, true>(exec, a, map);
    if (!few && routes.width == 8) run<true, 8, 4>(exec, a, map);
    if (routes.width == 32) run<true, 32, 3>(exec, a, map);
  } else {
    if (few) run<false, 8, 4, true>(exec, a, map);
    if (!few && routes.width == 8) run<false, 8, 4>(exec, a, map);
    if (routes.width == 32) run<false, 32, 3>(exec, a, map);
  }
}

}  // namespace fathom::ops
