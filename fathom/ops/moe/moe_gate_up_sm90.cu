// The second launch of grouped_moe: h = silu(x gate^T) * (x up^T), quantised where activations are.
// docs/kernels/grouped_moe.md.
//
// As in fp8_block_gemm_cluster_sm90.cu the weights are WGMMA's 64-row operand A and an item's rows
// its operand B. A piece of work is an item and 128 channels of h: two warpgroups of 64 channels,
// each with its gate and up rows, so that SwiGLU happens in registers and a quantisation group
// stays in one CTA. Units are 128 bytes of K of a piece; each CTA takes an equal run of units, and
// pieces that several CTAs share are summed in the CTAs' order. Rows of x are gathered by cp.async.
#include <type_traits>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/async_copy.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/moe/moe_products.cuh"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Ring;

constexpr int kConsumers = 256;
constexpr int kLoaders = 128;  // of rows of x
// And a warp that loads weights; a warpgroup where registers move between warpgroups.
constexpr bool moves_registers(int tokens) {
  return tokens > 32;
}
constexpr int threads(int tokens) {
  return kConsumers + kLoaders + (moves_registers(tokens) ? 128 : 32);
}
constexpr int kChannels = 128;  // of h in a piece
constexpr float kEps = 1e-10f;

struct Arguments {
  MoeRoutes routes;
  MoeChoice choice;
  MoeInput x;
  const uint8_t* w;
  const float* w_scale;  // [E][2 I / 128][K / 128]
  uint8_t* h;            // MoeHidden
  float* h_scale;        // e4m3
  float* partial;        // [ctas][2][2 rows x Tokens / 4][256]
  uint32_t* arrivals;    // a word a piece, zero
  int I, blocks;         // blocks: of 128 bytes of K
  bool ue8m0;
};

template <bool Fp8, int Tokens, int Stages, bool Few>
struct SharedStorage {
  static constexpr int kRowBytes = kChannels * (Fp8 ? 1 : 2);
  uint8_t w[Stages][4][kTileBytes];  // gate and up of the first warpgroup, of the second
  uint8_t x[Stages][Tokens * kTileRowBytes];
  float x_scale[Stages][Tokens];
  float w_scale[Stages][2];  // gate's, up's
  float amax[kConsumers / 32][Tokens];
  alignas(16) uint8_t h[Tokens][kRowBytes + 16];
  Barrier full[Stages], empty[Stages];
  bool last;
  std::conditional_t<Few, FewRoutes, char> few;
};

template <bool Fp8, int Tokens, int Stages, bool Few>
struct GateUp {
  using Storage = SharedStorage<Fp8, Tokens, Stages, Few>;
  static constexpr int kSums = Tokens / 2;          // of one tile, a thread
  static constexpr int kRows = (Tokens + 15) / 16;  // that a loader copies of an item

  const Arguments& a;
  Storage& s;
  RoutesView routes;
  int pieces, units_per_cta;
  bool in_turn;    // CTAs take whole pieces in turn; else equal runs of units
  int begin, end;  // units; in turn: of this CTA's pieces

  __device__ static const FewRoutes* few_of(Storage& storage) {
    if constexpr (Few) return &storage.few;
    return nullptr;
  }

  __device__ GateUp(const Arguments& arguments, Storage& storage)
      : a(arguments), s(storage), routes{arguments.routes, few_of(storage)} {
    pieces = routes.items() * (a.I / kChannels);
    const int units = pieces * a.blocks, grid = static_cast<int>(gridDim.x);
    const int cta = static_cast<int>(blockIdx.x), turns = (pieces + grid - 1) / grid;
    units_per_cta = (units + grid - 1) / grid;
    begin = min(cta * units_per_cta, units);
    end = min(begin + units_per_cta, units);
    // Items of one expert then run side by side and read its weights once, if few CTAs idle.
    in_turn = pieces * 16 >= turns * grid * 15;
    if (!in_turn) return;
    begin = 0;
    end = (pieces - cta + grid - 1) / grid * a.blocks;
  }

  __device__ int piece_at(int index) const {
    return in_turn ? static_cast<int>(blockIdx.x + static_cast<unsigned>(index) * gridDim.x)
                   : index;
  }

  __device__ int item_of(int piece) const { return piece / (a.I / kChannels); }
  __device__ int group_of(int piece) const { return piece % (a.I / kChannels); }

  // By one thread.
  __device__ void produce_weights() {
    const int tiles = 2 * a.I / 64;
    const int64_t tile_row = int64_t{a.blocks} * kTileBytes;
    Ring<Stages> ring;
    int index = begin / a.blocks, block = begin % a.blocks;
    const uint8_t* w = nullptr;
    for (int unit = begin; unit < end; ++unit) {
      if (unit == begin || block == 0) {
        const int piece = piece_at(index);
        w = a.w +
            (int64_t{routes.expert(item_of(piece))} * tiles + group_of(piece) * 2) * tile_row +
            block * kTileBytes;
      }
      const int stage = ring.stage;
      s.empty[stage].wait(ring.empty_parity());
      s.full[stage].arrive_expect(4 * kTileBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint8_t* from = w + (i / 2 + i % 2 * (tiles / 2)) * tile_row;
        device::bulk_load(s.w[stage][i], from, kTileBytes, s.full[stage], device::kEvictNormal);
      }
      ring.advance();
      w += kTileBytes;
      if (++block == a.blocks) {
        block = 0;
        ++index;
      }
    }
  }

  // 128 threads: eight a row of 128 bytes, 16 rows at a time.
  __device__ void gather(const int (&tokens)[kRows], int block, int stage, int thread) {
    const int chunk = thread % 8, row = thread / 8;
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      const int r = row + 16 * j;
      if (tokens[j] < 0) continue;
      device::copy_16_async(
          s.x[stage] + r * kTileRowBytes + ((chunk ^ (r & 7)) * 16),
          a.x.rows + tokens[j] * a.x.row_bytes + block * kTileRowBytes + chunk * 16
      );
    }
  }

  // 16 threads a row: quantises 128 values of each token, for the few.
  __device__ void quantise_rows(uint4 values, int stage, int thread) {
    const int row = thread / 16, lane = thread % 16;
    float v[8];
    device::Vec<__nv_bfloat16>::unpack(values, v);
    float amax = kEps;
#pragma unroll
    for (int i = 0; i < 8; ++i) amax = fmaxf(amax, fabsf(v[i]));
    const float scale = group_scale(device::warp_max<16>(amax), a.ue8m0);
    uint8_t* chunk = s.x[stage] + row * kTileRowBytes + ((lane / 2 ^ row) * 16);
    *reinterpret_cast<uint2*>(chunk + lane % 2 * 8) = quantise(v, scale);
    if (lane == 0) s.x_scale[stage][row] = scale;
  }

  // Scales of the weights' blocks, by loaders 0 and 1.
  __device__ const float* weight_scales(int piece, int thread) const {
    const int groups = a.I / kChannels;
    const int64_t line = int64_t{routes.expert(item_of(piece))} * 2 * groups + thread * groups;
    return a.w_scale + (line + group_of(piece)) * a.blocks;
  }

  __device__ void load_rows() {
    const int thread = static_cast<int>(threadIdx.x) - kConsumers;
    int tokens[kRows], scale_token = -1;
    const float* w_scale = nullptr;
    Ring<Stages> ring;
    int index = begin / a.blocks, block = begin % a.blocks;
    for (int unit = begin; unit < end; ++unit) {
      if (unit == begin || block == 0) {
        const int first = item_of(piece_at(index)) * Tokens;
#pragma unroll
        for (int j = 0; j < kRows; ++j) {
          const int row = thread / 8 + 16 * j;
          tokens[j] = row < Tokens ? routes.token(first + row) : -1;
        }
        scale_token = thread < Tokens ? routes.token(first + thread) : -1;
        if (Fp8 && thread < 2) w_scale = weight_scales(piece_at(index), thread);
      }
      const int stage = ring.stage;
      s.empty[stage].wait(ring.empty_parity());
      gather(tokens, block, stage, thread);
      if (Fp8 && scale_token >= 0) {
        device::copy_4_async(
            &s.x_scale[stage][thread], a.x.scale + int64_t{block} * a.x.scale_columns + scale_token
        );
      }
      if (Fp8 && thread < 2) device::copy_4_async(&s.w_scale[stage][thread], w_scale + block);
      device::arrive_after_copies(s.full[stage]);
      ring.advance();
      if (++block == a.blocks) {
        block = 0;
        ++index;
      }
    }
  }

  // The same for few tokens, quantising: 16 threads a row, values of the next units on their way.
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
        token = routes.token(item_of(piece_at(next / a.blocks)) * Tokens + thread / 16);
      ++next;
      if (token < 0) return;
      const uint8_t* row = a.x.rows + token * a.x.row_bytes;
      to = __ldcg(reinterpret_cast<const uint4*>(row + block * 256 + thread % 16 * 16));
    };
#pragma unroll
    for (int i = 0; i < kAhead; ++i) fetch(ahead[i]);
    Ring<Stages> ring;
    const float* w_scale = nullptr;
    int index = begin / a.blocks, block = begin % a.blocks;
    const auto put = [&](int unit, uint4& values) {
      if (thread < 2 && (unit == begin || block == 0))
        w_scale = weight_scales(piece_at(index), thread);
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
        ++index;
      }
    };
    for (int unit = begin; unit < end; unit += kAhead) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (unit + i < end) put(unit + i, ahead[i]);
      }
    }
  }

  // h of one piece from its sums: SwiGLU, quantisation, rows of 128 channels to memory.
  __device__ void finish(float (&sum)[2][kSums], int piece) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const int channel = warp * 16 + lane / 4, column = lane % 4 * 2;
    const int item = item_of(piece), group = group_of(piece);
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum[0][i] = silu(sum[0][i]) * sum[1][i];
    if constexpr (Fp8) {
      float largest[Tokens / 4];
#pragma unroll
      for (int c = 0; c < Tokens / 4; ++c) {
        const int i = c / 2 * 4 + c % 2;
        float m = fmaxf(fabsf(sum[0][i]), fabsf(sum[0][i + 2]));
#pragma unroll
        for (int d = 4; d < 32; d *= 2) m = fmaxf(m, __shfl_xor_sync(device::kFullWarp, m, d));
        if (lane < 4) s.amax[warp][c / 2 * 8 + column + c % 2] = m;
      }
      device::named_barrier<1>(kConsumers);
#pragma unroll
      for (int c = 0; c < Tokens / 4; ++c) {
        float m = kEps;
#pragma unroll
        for (int w = 0; w < kConsumers / 32; ++w)
          m = fmaxf(m, s.amax[w][c / 2 * 8 + column + c % 2]);
        largest[c] = group_scale(m, a.ue8m0);
      }
#pragma unroll
      for (int i = 0; i < kSums; i += 2) {
        const uint16_t pair = device::pack_e4m3(
            sum[0][i] / largest[i / 4 * 2], sum[0][i + 1] / largest[i / 4 * 2 + 1]
        );
        const int row = i / 4 * 8 + column, c = channel + i / 2 % 2 * 8;
        s.h[row][c] = static_cast<uint8_t>(pair);
        s.h[row + 1][c] = static_cast<uint8_t>(pair >> 8);
      }
      if (warp == 0 && lane < 4) {
#pragma unroll
        for (int c = 0; c < Tokens / 4; ++c) {
          const int64_t line = int64_t{item} * (a.I / kChannels) + group;
          a.h_scale[line * Tokens + c / 2 * 8 + column + c % 2] =
              largest[c] * routes.weight(item * Tokens + c / 2 * 8 + column + c % 2);
        }
      }
    } else {
      device::named_barrier<1>(kConsumers);
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        const int row = i / 4 * 8 + column + i % 2, c = channel + i / 2 % 2 * 8;
        reinterpret_cast<__nv_bfloat16*>(s.h[row])[c] = __float2bfloat16_rn(sum[0][i]);
      }
    }
    device::named_barrier<1>(kConsumers);
    constexpr int kVectors = Storage::kRowBytes / 16;
    const int64_t row_bytes = int64_t{a.I} * (Fp8 ? 1 : 2);
    for (int v = thread; v < Tokens * kVectors; v += kConsumers) {
      const int row = v / kVectors, at = v % kVectors * 16;
      uint8_t* to = a.h + (int64_t{item} * Tokens + row) * row_bytes + group * Storage::kRowBytes;
      *reinterpret_cast<uint4*>(to + at) = *reinterpret_cast<const uint4*>(&s.h[row][at]);
    }
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
#pragma unroll(Tokens == 8 ? 8 : 2)
    for (int cta = first; cta <= last; ++cta) {
      const float* part = partial_sums(cta, piece);
#pragma unroll
      for (int i = 0; i < 2 * kSums; ++i)
        sum[i / kSums][i % kSums] += __ldcg(part + i * kConsumers);
    }
    finish(sum, piece);
  }

  // sum += scaled products of one tile.
  __device__ void add(float (&sum)[kSums], const float (&block)[kSums], int stage, float w_scale) {
    const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int j = 0; j < Tokens / 8; ++j) {
      const float2 scale = *reinterpret_cast<const float2*>(&s.x_scale[stage][8 * j + column]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float both = w_scale * (i % 2 == 0 ? scale.x : scale.y);
        sum[4 * j + i] = fmaf(both, block[4 * j + i], sum[4 * j + i]);
      }
    }
  }

  __device__ void multiply(float (&sum)[2][kSums], int stage) {
    const int half = static_cast<int>(threadIdx.x) / 128;
    const uint64_t x = device::operand_descriptor(s.x[stage]);
    const uint64_t gate = device::operand_descriptor(s.w[stage][2 * half]);
    const uint64_t up = device::operand_descriptor(s.w[stage][2 * half + 1]);
    if constexpr (!Fp8) {
      device::wgmma_fence();
      mma_bf16_tile(sum[0], gate, x, true);
      mma_bf16_tile(sum[1], up, x, true);
      device::wgmma_commit();
      device::wgmma_wait<0>();
      device::pin(sum[0]);
      device::pin(sum[1]);
      return;
    }
    if constexpr (Tokens <= 32) {
      float products[2][kSums];
      device::wgmma_fence();
      device::mma_e4m3_tile(products[0], gate, x);
      device::mma_e4m3_tile(products[1], up, x);
      device::wgmma_commit();
      device::wgmma_wait<0>();
      device::pin(products[0]);
      device::pin(products[1]);
      add(sum[0], products[0], stage, s.w_scale[stage][0]);
      add(sum[1], products[1], stage, s.w_scale[stage][1]);
    } else {
      float products[kSums];
      device::wgmma_fence();
      device::mma_e4m3_tile(products, gate, x);
      device::wgmma_commit();
      device::wgmma_wait<0>();
      device::pin(products);
      add(sum[0], products, stage, s.w_scale[stage][0]);
      device::wgmma_fence();
      device::mma_e4m3_tile(products, up, x);
      device::wgmma_commit();
      device::wgmma_wait<0>();
      device::pin(products);
      add(sum[1], products, stage, s.w_scale[stage][1]);
    }
  }

  __device__ void consume() {
    float sum[2][kSums];
#pragma unroll
    for (int i = 0; i < 2 * kSums; ++i) sum[i / kSums][i % kSums] = 0;
    Ring<Stages> ring;
    int index = begin / a.blocks, block = begin % a.blocks, first_block = block;
    for (int unit = begin; unit < end; ++unit) {
      s.full[ring.stage].wait(ring.full_parity());
      device::fence_shared_for_async();  // rows came by ordinary writes
      multiply(sum, ring.stage);
      if (threadIdx.x % 32 == 0) s.empty[ring.stage].arrive();
      ring.advance();
      if (++block < a.blocks && unit + 1 < end) continue;
      const int piece = piece_at(index);
      if (first_block == 0 && block == a.blocks) {
        finish(sum, piece);
      } else {
        share(sum, piece);
      }
#pragma unroll
      for (int i = 0; i < 2 * kSums; ++i) sum[i / kSums][i % kSums] = 0;
      first_block = block = 0;
      ++index;
    }
  }
};

template <bool Fp8, int Tokens, int Stages, bool Few>
__global__ void __launch_bounds__(threads(Tokens), Tokens == 8 ? 2 : 1) gate_up(const Arguments a) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<Fp8, Tokens, Stages, Few>*>(memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Stages; ++i) {
      s.full[i].init(1 + kLoaders + (Fp8 && Few ? 2 : 0));
      s.empty[i].init(kConsumers / 32);
    }
    device::fence_barrier_init();
  }
  __syncthreads();
  device::wait_for_predecessor();
  device::launch_successor();  // it may read at once what made the routes: that has ended
  if constexpr (Few) s.few.make(a.choice);
  GateUp<Fp8, Tokens, Stages, Few> work(a, s);
  if (threadIdx.x < kConsumers) {
    if constexpr (moves_registers(Tokens)) device::take_registers<216>();
    work.consume();
  } else {
    if constexpr (moves_registers(Tokens)) device::release_registers<40>();
    if (threadIdx.x < kConsumers + kLoaders) {
      if constexpr (Fp8 && Few) {
        work.quantise_all_rows();
      } else {
        work.load_rows();
      }
    } else if (threadIdx.x == kConsumers + kLoaders) {
      work.produce_weights();
    }
  }
}

template <bool Fp8, int Tokens, int Stages, bool Few = false>
void run(const Exec& exec, Arguments a) {
  const int ctas = cuda::multiprocessors(exec.device.index);
  const int64_t floats = int64_t{ctas} * 2 * Tokens * kConsumers;
  a.partial = exec.workspace->alloc(DType::f32, {floats}).as<float>();
  cuda::launch(
      exec,
      "grouped_moe",
      {.grid = dim3(static_cast<unsigned>(ctas)),
       .threads = threads(Tokens),
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<Fp8, Tokens, Stages, Few>))},
      gate_up<Fp8, Tokens, Stages, Few>,
      a
  );
}

}  // namespace

cuda::TensorMap map_of_hidden(
    const GroupedMoe& args, const MoeRoutes& routes, const MoeHidden& h, int blocks
) {
  const int64_t row_bytes = args.down.data.dim(2) * (args.quantise_activations ? 1 : 2);
  return cuda::make_tensor_map({
      .data = h.rows,
      .dtype = DType::u8,
      .rank = 3,
      .dims =
          {kTileRowBytes,
           static_cast<uint64_t>(routes.places()),
           static_cast<uint64_t>(row_bytes / kTileRowBytes)},
      .stride_bytes = {static_cast<uint64_t>(row_bytes), kTileRowBytes},
      .box = {kTileRowBytes, static_cast<uint32_t>(routes.width), static_cast<uint32_t>(blocks)},
  });
}

MoeHidden moe_gate_up(
    Exec& exec, const GroupedMoe& args, const MoeRoutes& routes, const MoeInput& x
) {
  const bool fp8 = args.quantise_activations;
  const int64_t I = args.down.data.dim(2), C = args.x.dim(1);
  const Tensor rows = exec.workspace->alloc(fp8 ? DType::u8 : DType::bf16, {routes.places(), I});
  float* scale = nullptr;
  if (fp8) scale = exec.workspace->alloc(DType::f32, {routes.places(), I / kChannels}).as<float>();
  const MoeHidden h{.rows = static_cast<uint8_t*>(rows.data), .scale = fp8 ? scale : routes.weight};
  const Arguments a{
      .routes = routes,
      .choice = choice_of(args),
      .x = x,
      .w = static_cast<const uint8_t*>(args.gate_up.data.data),
      .w_scale = static_cast<const float*>(args.gate_up.scale.data),
      .h = h.rows,
      .h_scale = scale,
      .partial = nullptr,
      .arrivals = exec.semaphores,
      .I = static_cast<int>(I),
      .blocks = static_cast<int>(C * (fp8 ? 1 : 2) / kTileRowBytes),
      .ue8m0 = args.ue8m0,
  };
  const bool few = routes.items == nullptr;
  if (fp8) {
    if (few) run<true, 8, 3, true>(exec, a);
    if (!few && routes.width == 8) run<true, 8, 3>(exec, a);
    if (routes.width == 32) run<true, 32, 5>(exec, a);
    if (routes.width == 64) run<true, 64, 5>(exec, a);
    if (routes.width == 128) run<true, 128, 4>(exec, a);
  } else {
    if (few) run<false, 8, 3, true>(exec, a);
    if (!few && routes.width == 8) run<false, 8, 3>(exec, a);
    if (routes.width == 32) run<false, 32, 5>(exec, a);
    if (routes.width == 64) run<false, 64, 4>(exec, a);
    if (routes.width == 128) run<false, 128, 3>(exec, a);
  }
  return h;
}

}  // namespace fathom::ops
