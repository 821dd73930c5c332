// grouped_moe, row few_sm90, first product: h = silu(x gate^T) * (x up^T), quantised where
// activations are. docs/kernels/grouped_moe.md.
//
// The weights are WGMMA's 64-row operand A, an expert's tokens its operand B of width 8. A piece of
// work is an expert and 128 channels of h: two warpgroups of 64 channels, each with its gate and up
// rows, so that SwiGLU happens in registers and a quantisation group stays in one CTA. Units are
// 128 bytes of K of a piece; each CTA takes an equal run of units, and pieces that several CTAs
// share are summed in the CTAs' order. Every CTA makes the routes by itself and quantises what it
// reads of x.
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/async_copy.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/moe/moe_hidden_sm90.cuh"
#include "fathom/ops/moe/moe_products.cuh"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Ring;

constexpr int kTokens = FewRoutes::kTokens;
constexpr int kSums = kTokens / 2;  // of one weight tile, a thread
constexpr int kStages = 4;
constexpr int kConsumers = 256;
constexpr int kLoaders = 128;                         // of rows of x
constexpr int kThreads = kConsumers + kLoaders + 32;  // and a warp that loads weights
constexpr int kChannels = kHiddenChannels;            // of h in a piece
constexpr float kEps = 1e-10f;
// Of a CTA's units, those left when the second product may start: shares end up to a third apart,
// and where they have, its weights come in.
constexpr int kLead = 16;

struct Arguments {
  MoeChoice choice;
  MoeInput x;
  const uint8_t* w;
  const float* w_scale;  // [E][2 I / 128][K / 128]
  uint8_t* h;            // MoeHidden
  float* h_scale;        // e4m3
  float* partial;        // [ctas][2][2 kSums][256]
  uint32_t* arrivals;    // a word a piece, zero
  int I, blocks;         // blocks: of 128 bytes of K
  bool ue8m0;
};

template <bool Fp8>
struct SharedStorage {
  static constexpr int kRowBytes = HiddenStage<Fp8, kTokens>::kRowBytes;
  uint8_t w[kStages][4][kTileBytes];  // gate and up of the first warpgroup, of the second
  uint8_t x[kStages][kTokens * kTileRowBytes];
  float x_scale[kStages][kTokens];
  float w_scale[kStages][2];  // gate's, up's
  HiddenStage<Fp8, kTokens> hidden;
  Barrier full[kStages], empty[kStages];
  bool last;
  FewRoutes routes;
};

template <bool Fp8>
struct GateUp {
  using Storage = SharedStorage<Fp8>;

  const Arguments& a;
  Storage& s;
  int groups;  // of kChannels
  int units_per_cta, begin, end;

  __device__ GateUp(const Arguments& arguments, Storage& storage) : a(arguments), s(storage) {
    groups = a.I / kChannels;
    const int units = s.routes.items * groups * a.blocks, grid = static_cast<int>(gridDim.x);
    units_per_cta = (units + grid - 1) / grid;
    begin = min(static_cast<int>(blockIdx.x) * units_per_cta, units);
    end = min(begin + units_per_cta, units);
  }

  __device__ int expert_of(int piece) const { return s.routes.expert[piece / groups]; }

  // f(piece, its first unit here, how many) for what this CTA does.
  template <class F>
  __device__ void for_each_piece(F f) const {
    for (int unit = begin; unit < end;) {
      const int piece = unit / a.blocks, first = unit - piece * a.blocks;
      const int count = min(a.blocks - first, end - unit);
      f(piece, first, count);
      unit += count;
    }
  }

  // By one thread.
  __device__ void produce_weights() {
    const int tiles = 2 * a.I / 64;
    const int64_t tile_row = int64_t{a.blocks} * kTileBytes;
    Ring<kStages> ring;
    int left = end - begin;
    for_each_piece([&](int piece, int first, int count) {
      const int64_t tile = int64_t{expert_of(piece)} * tiles + piece % groups * 2;
      const uint8_t* w = a.w + tile * tile_row + first * kTileBytes;
      for (int unit = 0; unit < count; ++unit, w += kTileBytes) {
        if (left-- == kLead) device::launch_successor();
        const int stage = ring.stage;
        s.empty[stage].wait(ring.empty_parity());
        s.full[stage].arrive_expect(4 * kTileBytes);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint8_t* from = w + (i / 2 + i % 2 * (tiles / 2)) * tile_row;
          device::bulk_load(s.w[stage][i], from, kTileBytes, s.full[stage], device::kEvictFirst);
        }
        ring.advance();
      }
    });
    device::launch_successor();
  }

  // BF16: eight threads copy a row of 128 bytes.
  __device__ void copy_rows() {
    const int thread = static_cast<int>(threadIdx.x) - kConsumers;
    const int chunk = thread % 8, row = thread / 8;
    Ring<kStages> ring;
    for_each_piece([&](int piece, int first, int count) {
      const int token = row < kTokens ? s.routes.token[piece / groups * kTokens + row] : -1;
      for (int block = first; block < first + count; ++block) {
        const int stage = ring.stage;
        s.empty[stage].wait(ring.empty_parity());
        if (token >= 0) {
          device::copy_16_async(
              s.x[stage] + row * kTileRowBytes + ((chunk ^ row) * 16),
              a.x.rows + token * a.x.row_bytes + block * kTileRowBytes + chunk * 16
          );
        }
        device::arrive_after_copies(s.full[stage]);
        ring.advance();
      }
    });
  }

  // 16 threads a row: quantises 128 values of each token.
  __device__ void quantise_rows(uint4 values, int stage, int thread) {
    const int row = thread / 16, lane = thread % 16;
    float v[8];
    device::Vec<__nv_bfloat16>::unpack(values, v);
    const float scale = group_scale<16>(v, kEps, a.ue8m0);
    uint8_t* chunk = s.x[stage] + row * kTileRowBytes + ((lane / 2 ^ row) * 16);
    *reinterpret_cast<uint2*>(chunk + lane % 2 * 8) = quantise(v, scale);
    if (lane == 0) s.x_scale[stage][row] = scale;
  }

  // Scales of the weights' blocks, by loaders 0 and 1.
  __device__ const float* weight_scales(int piece, int thread) const {
    const int64_t line = int64_t{expert_of(piece)} * 2 * groups + thread * groups;
    return a.w_scale + (line + piece % groups) * a.blocks;
  }

  // FP8: values of the next units are on their way while those before are quantised.
  __device__ void quantise_all_rows() {
    constexpr int kAhead = 4;
    const int thread = static_cast<int>(threadIdx.x) - kConsumers;
    uint4 ahead[kAhead];
    int next = begin, token = -1;
    const auto fetch = [&](uint4& to) {
      to = {0, 0, 0, 0};
      if (next >= end) return;
      const int block = next % a.blocks;
      if (next == begin || block == 0)
        token = s.routes.token[next / a.blocks / groups * kTokens + thread / 16];
      ++next;
      if (token < 0) return;
      const uint8_t* row = a.x.rows + token * a.x.row_bytes;
      to = __ldcg(reinterpret_cast<const uint4*>(row + block * 256 + thread % 16 * 16));
    };
#pragma unroll
    for (int i = 0; i < kAhead; ++i) fetch(ahead[i]);
    Ring<kStages> ring;
    const float* w_scale = nullptr;
    int piece = begin / a.blocks, block = begin % a.blocks;
    const auto put = [&](int unit, uint4& values) {
      if (thread < 2 && (unit == begin || block == 0)) w_scale = weight_scales(piece, thread);
      const int stage = ring.stage;
      s.empty[stage].wait(ring.empty_parity());
      if (thread < 2) {
        device::copy_4_async(&s.w_scale[stage][thread], w_scale + block);
        device::arrive_after_copies(s.full[stage]);
      }
      quantise_rows(values, stage, thread);
      s.full[stage].arrive();
      fetch(values);
      ring.advance();
      if (++block == a.blocks) {
        block = 0;
        ++piece;
      }
    };
    for (int unit = begin; unit < end; unit += kAhead) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (unit + i < end) put(unit + i, ahead[i]);
      }
    }
  }

  // h of one piece from its sums.
  __device__ void finish(float (&sum)[2][kSums], int piece) {
    const int item = piece / groups, group = piece - item * groups;
    const int64_t row_bytes = int64_t{a.I} * (Fp8 ? 1 : 2);
    const HiddenPlace to{
        .h = a.h + item * kTokens * row_bytes + group * Storage::kRowBytes,
        .row_bytes = row_bytes,
        .scale = a.h_scale + (int64_t{item} * groups + group) * kTokens,
        .ue8m0 = a.ue8m0,
    };
    HiddenRows<Fp8, kTokens, kTokens>(s.hidden, to).finish(sum[0], sum[1], [&](int row) {
      return s.routes.weight[item * kTokens + row];
    });
  }

  __device__ float* partial_sums(int cta, int piece) const {
    const int first = cta * units_per_cta;
    const bool starts_inside = first % a.blocks != 0 && first / a.blocks == piece;
    return a.partial + int64_t{cta * 2 + (starts_inside ? 0 : 1)} * 2 * kSums * kConsumers +
           threadIdx.x;
  }

  // Leaves this CTA's part of a shared piece in memory; the last CTA to come adds all parts up.
  __device__ void share(float (&sum)[2][kSums], int piece) {
    float* mine = partial_sums(static_cast<int>(blockIdx.x), piece);
#pragma unroll
    for (int i = 0; i < 2 * kSums; ++i) __stcg(mine + i * kConsumers, sum[i / kSums][i % kSums]);
    const int first = piece * a.blocks / units_per_cta;
    const int last = ((piece + 1) * a.blocks - 1) / units_per_cta;
    device::named_barrier<1>(kConsumers);
    if (threadIdx.x == 0) {
      s.last = device::arrive_counter(a.arrivals + piece) == static_cast<uint32_t>(last - first);
      if (s.last) a.arrivals[piece] = 0;
    }
    device::named_barrier<1>(kConsumers);
    if (!s.last) return;
#pragma unroll
    for (int i = 0; i < 2 * kSums; ++i) sum[i / kSums][i % kSums] = 0;
#pragma unroll 8
    for (int cta = first; cta <= last; ++cta) {
      const float* part = partial_sums(cta, piece);
#pragma unroll
      for (int i = 0; i < 2 * kSums; ++i)
        sum[i / kSums][i % kSums] += __ldcg(part + i * kConsumers);
    }
    finish(sum, piece);
  }

  __device__ void multiply(float (&sum)[2][kSums], int stage) {
    const int half = static_cast<int>(threadIdx.x) / 128;
    const auto join = [&](float(&of)[kSums], const float(&products)[kSums], int which) {
      promote(of, products, s.w_scale[stage][which], s.x_scale[stage]);
    };
    multiply_gate_up<Fp8>(sum, s.w[stage] + 2 * half, s.x[stage], join);
  }

  __device__ void consume() {
    Ring<kStages> ring;
    for_each_piece([&](int piece, int, int count) {
      float sum[2][kSums] = {};
      for (int unit = 0; unit < count; ++unit) {
        s.full[ring.stage].wait(ring.full_parity());
        device::fence_shared_for_async();  // rows came by ordinary writes
        multiply(sum, ring.stage);
        if (threadIdx.x % 32 == 0) s.empty[ring.stage].arrive();
        ring.advance();
      }
      if (count == a.blocks) {
        finish(sum, piece);
      } else {
        share(sum, piece);
      }
    });
  }
};

template <bool Fp8>
__global__ void __launch_bounds__(kThreads, 1) gate_up_of_few(const Arguments a) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<Fp8>*>(memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      s.full[i].init(1 + kLoaders + (Fp8 ? 2 : 0));
      s.empty[i].init(kConsumers / 32);
    }
    device::fence_barrier_init();
  }
  __syncthreads();
  device::wait_for_predecessor();
  s.routes.make(a.choice);
  GateUp<Fp8> work(a, s);
  if (threadIdx.x < kConsumers) {
    work.consume();
  } else if (threadIdx.x < kConsumers + kLoaders) {
    if constexpr (Fp8) {
      work.quantise_all_rows();
    } else {
      work.copy_rows();
    }
  } else if (threadIdx.x == kConsumers + kLoaders) {
    work.produce_weights();
  }
}

template <bool Fp8>
void run(const Exec& exec, const Arguments& a) {
  cuda::launch(
      exec,
      "grouped_moe",
      {.grid = dim3(static_cast<unsigned>(cuda::multiprocessors(exec.device.index))),
       .threads = kThreads,
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<Fp8>))},
      gate_up_of_few<Fp8>,
      a
  );
}

}  // namespace

MoeHidden moe_few_gate_up(Exec& exec, const GroupedMoe& args) {
  const bool fp8 = args.quantise_activations;
  const int64_t I = args.down.data.dim(2), C = args.x.dim(1);
  const int64_t rows = std::min(args.ids.elements(), args.gate_up.data.dim(0)) * kTokens;
  const int ctas = cuda::multiprocessors(exec.device.index);
  const auto floats = [&](int64_t n) { return exec.workspace->alloc(DType::f32, {n}).as<float>(); };
  const Tensor h = exec.workspace->alloc(fp8 ? DType::u8 : DType::bf16, {rows, I});
  const MoeHidden hidden{
      .rows = static_cast<uint8_t*>(h.data),
      .scale = fp8 ? floats(rows * (I / kChannels)) : nullptr,
      .places = rows};
  const MoeInput x{
      .rows = static_cast<const uint8_t*>(args.x.data), .row_bytes = args.x.stride(0) * 2};
  const Arguments a{
      .choice = choice_of(args),
      .x = x,
      .w = static_cast<const uint8_t*>(args.gate_up.data.data),
      .w_scale = static_cast<const float*>(args.gate_up.scale.data),
      .h = hidden.rows,
      .h_scale = hidden.scale,
      .partial = floats(int64_t{ctas} * 2 * 2 * kSums * kConsumers),
      .arrivals = exec.semaphores,
      .I = static_cast<int>(I),
      .blocks = static_cast<int>(C * (fp8 ? 1 : 2) / kTileRowBytes),
      .ue8m0 = args.ue8m0,
  };
  fp8 ? run<true>(exec, a) : run<false>(exec, a);
  return hidden;
}

}  // namespace fathom::ops
