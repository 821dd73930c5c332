// grouped_moe, row tile_sm90, first product: h = silu(x gate^T) * (x up^T), quantised where
// activations are. docs/kernels/grouped_moe.md.
//
// A piece of work is an item and 128 channels of h: two warpgroups of 64 channels, each with its
// gate and up rows, so that SwiGLU happens in registers and a quantisation group stays in one CTA.
// CTAs take whole pieces in turn where that leaves few of them idle; else each takes an equal run
// of units, and pieces that several CTAs share are summed in the CTAs' order. Rows of x are
// gathered by cp.async.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/async_copy.cuh"
#include "fathom/ops/moe/moe_hidden_sm90.cuh"
#include "fathom/ops/moe/moe_tile_sm90.cuh"

namespace fathom::ops {
namespace {

using device::Ring;

constexpr int kLoaders = 96;  // of rows of x: three warps; a fourth loads weights
constexpr int kThreads = kTileConsumers + kLoaders + 32;
constexpr int kChannels = kHiddenChannels;  // of h in a piece
constexpr int kRowsAtOnce = kLoaders / 8;
constexpr int kRows = (kTileItem + kRowsAtOnce - 1) / kRowsAtOnce;  // of an item, a loader's
constexpr int kStages = 4;
constexpr int kRegisters = 224;  // of a consumer

struct Arguments {
  MoeRoutes routes;
  MoeInput x;
  const uint8_t* w;
  const float* w_scale;  // [E][2 I / 128][K / 128]
  uint8_t* h;            // MoeHidden
  float* h_scale;        // e4m3
  float* partial;        // [ctas][2][128][256]
  uint32_t* arrivals;    // a word a piece, zero
  int I, blocks;         // blocks: of 128 bytes of K
  bool ue8m0;
  uint64_t w_policy;  // L2, of the weights
};

template <bool Fp8>
struct SharedStorage {
  static constexpr int kAtOnce = Fp8 ? 80 : 48;  // rows of h that are staged
  static constexpr int kRowBytes = HiddenStage<Fp8, kAtOnce>::kRowBytes;
  MoeTileRing<kStages> ring;
  HiddenStage<Fp8, kAtOnce> hidden;
  bool last;
};

template <bool Fp8>
struct GateUp {
  using Storage = SharedStorage<Fp8>;
  template <int Width>
  using Sums = MoeTileSums<Fp8, Width, kRegisters>;

  const Arguments& a;
  Storage& s;
  int groups;  // of kChannels
  int units_per_cta;
  bool in_turn;    // CTAs take whole pieces in turn; else equal runs of units
  int begin, end;  // units; in turn: of this CTA's pieces

  __device__ GateUp(const Arguments& arguments, Storage& storage) : a(arguments), s(storage) {
    groups = a.I / kChannels;
    const int pieces = __ldcg(a.routes.items) * groups, units = pieces * a.blocks;
    const int grid = static_cast<int>(gridDim.x), cta = static_cast<int>(blockIdx.x);
    const int turns = (pieces + grid - 1) / grid;
    units_per_cta = (units + grid - 1) / grid;
    begin = min(cta * units_per_cta, units);
    end = min(begin + units_per_cta, units);
    // Items of one expert then run side by side and read its weights once, if few CTAs idle.
    in_turn = pieces * 16 >= turns * grid * 15;
    if (!in_turn) return;
    begin = 0;
    end = (pieces - cta + grid - 1) / grid * a.blocks;
  }

  // f(piece, its first unit here, how many) for what this CTA does.
  template <class F>
  __device__ void for_each_piece(F f) const {
    for (int unit = begin; unit < end;) {
      const int index = unit / a.blocks, first = unit - index * a.blocks;
      const int count = min(a.blocks - first, end - unit);
      f(in_turn ? static_cast<int>(blockIdx.x) + index * static_cast<int>(gridDim.x) : index,
        first,
        count);
      unit += count;
    }
  }

  // By one thread.
  __device__ void load_weights() {
    const int64_t tile = int64_t{a.blocks} * kTileBytes, expert_tiles = 2 * a.I / 64;
    Ring<kStages> ring;
    for_each_piece([&](int piece, int first, int count) {
      const int item = piece / groups, group = piece - item * groups;
      const int64_t expert = __ldcg(a.routes.expert + item);
      const int rows = __ldcg(a.routes.rows + item);
      const uint8_t* tiles[4];  // gate and up of the first warpgroup, of the second
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t of = expert * expert_tiles + group * 2 + i / 2 + i % 2 * (expert_tiles / 2);
        tiles[i] = a.w + of * tile + first * kTileBytes;
      }
      for (int unit = 0; unit < count; ++unit) {
        s.ring.empty[ring.stage].wait(ring.empty_parity());
        s.ring.rows[ring.stage] = rows;
        s.ring.load_weights(ring.stage, tiles, 0, a.w_policy);
        ring.advance();
#pragma unroll
        for (int i = 0; i < 4; ++i) tiles[i] += kTileBytes;
      }
    });
  }

  // Eight threads a row of 128 bytes. `from`: where a thread's chunks begin, in units of 16 bytes;
  // -1: no row.
  __device__ void gather(int (&from)[kRows], int block, int stage, int thread) {
    static_assert(kRowsAtOnce % 8 == 4);
    const int chunk = thread % 8, row = thread / 8;
    uint8_t* to = s.ring.x[stage] + row * kTileRowBytes;
    const int swizzled[2] = {(chunk ^ (row & 7)) * 16, (chunk ^ (row + 4 & 7)) * 16};
    const uint8_t* x = a.x.rows + block * kTileRowBytes;
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      asm volatile("" : "+r"(from[j]));  // else addresses of all rows are kept, beyond registers
      if (from[j] < 0) continue;
      device::copy_16_async(
          to + j * kRowsAtOnce * kTileRowBytes + swizzled[j % 2], x + int64_t{from[j]} * 16
      );
    }
  }

  __device__ void load_rows() {
    const int thread = static_cast<int>(threadIdx.x) - kTileConsumers;
    Ring<kStages> ring;
    for_each_piece([&](int piece, int first, int count) {
      const int item = piece / groups, group = piece - item * groups;
      const int rows = __ldcg(a.routes.rows + item);
      const auto token_of = [&](int row) {
        return row < rows ? __ldcg(a.routes.token + item * kTileItem + row) : -1;
      };
      const int row_chunks = static_cast<int>(a.x.row_bytes / 16);
      int from[kRows];
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        const int token = token_of(thread / 8 + kRowsAtOnce * j);
        from[j] = token < 0 ? -1 : token * row_chunks + thread % 8;
      }
      const int scale_tokens[2] = {
          Fp8 ? token_of(thread) : -1,
          Fp8 && thread < kTileItem - kLoaders ? token_of(kLoaders + thread) : -1};
      const float* w_scale = nullptr;  // gate's and up's, by threads 0 and 1
      if (Fp8 && thread < 2) {
        const int64_t line = int64_t{__ldcg(a.routes.expert + item)} * 2 + thread;
        w_scale = a.w_scale + (line * groups + group) * a.blocks;
      }
      for (int block = first; block < first + count; ++block) {
        const int stage = ring.stage;
        s.ring.empty[stage].wait(ring.empty_parity());
        gather(from, block, stage, thread);
        const float* x_scale = a.x.scale + int64_t{block} * a.x.scale_columns;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (scale_tokens[i] < 0) continue;
          float* to = &s.ring.x_scale[stage][i * kLoaders + thread];
          device::copy_4_async(to, x_scale + scale_tokens[i]);
        }
        if (w_scale != nullptr)
          device::copy_4_async(&s.ring.w_scale[stage][thread], w_scale + block);
        device::arrive_after_copies(s.ring.full[stage]);
        ring.advance();
      }
    });
  }

  // h of one piece from its sums, some rows at a time.
  template <int Width>
  __device__ void finish(const Sums<Width>& sums, int piece) {
    constexpr int kPart = part_of_width(Width, Storage::kAtOnce);
    finish_from<Width, 0, kPart>(sums, piece);
  }

  template <int Width, int Row, int Part>
  __device__ void finish_from(const Sums<Width>& sums, int piece) {
    const int item = piece / groups, group = piece - item * groups;
    const int64_t first = int64_t{item} * kTileItem + Row, row_bytes = int64_t{a.I} * (Fp8 ? 1 : 2);
    const HiddenPlace to{
        .h = a.h + first * row_bytes + group * Storage::kRowBytes,
        .row_bytes = row_bytes,
        .scale = a.h_scale + (int64_t{item} * groups + group) * kTileItem + Row,
        .ue8m0 = a.ue8m0,
    };
    HiddenRows<Fp8, Part, Storage::kAtOnce>(s.hidden, to)
        .template finish<Row / 2>(sums.of[0], sums.of[1], [&](int row) {
          return __ldcg(a.routes.weight + first + row);
        });
    if constexpr (Row + Part < Width) finish_from<Width, Row + Part, Part>(sums, piece);
  }

  template <int Width>
  __device__ float* partial_sums(int cta, int piece) const {
    const int first = cta * units_per_cta;
    const bool starts_inside = first % a.blocks != 0 && first / a.blocks == piece;
    return a.partial + int64_t{cta * 2 + (starts_inside ? 0 : 1)} * kTileItem * kTileConsumers +
           threadIdx.x;
  }

  // Leaves this CTA's part of a shared piece in memory. True for the last CTA to come, which gets
  // the sums of all parts.
  template <int Width>
  __device__ bool share(Sums<Width>& sums, int piece) {
    constexpr int kHalf = Width / 2;
    float* mine = partial_sums<Width>(static_cast<int>(blockIdx.x), piece);
#pragma unroll
    for (int i = 0; i < Width; ++i)
      __stcg(mine + i * kTileConsumers, sums.of[i / kHalf][i % kHalf]);
    const int first = piece * a.blocks / units_per_cta;
    const int last = ((piece + 1) * a.blocks - 1) / units_per_cta;
    device::named_barrier<1>(kTileConsumers);
    if (threadIdx.x == 0) {
      s.last = device::arrive_counter(a.arrivals + piece) == static_cast<uint32_t>(last - first);
      if (s.last) a.arrivals[piece] = 0;
    }
    device::named_barrier<1>(kTileConsumers);
    if (!s.last) return false;
    sums = Sums<Width>();
#pragma unroll(Width == 8 ? 8 : 2)
    for (int cta = first; cta <= last; ++cta) {
      const float* part = partial_sums<Width>(cta, piece);
#pragma unroll
      for (int i = 0; i < Width; ++i)
        sums.of[i / kHalf][i % kHalf] += __ldcg(part + i * kTileConsumers);
    }
    return true;
  }

  __device__ void consume() {
    Ring<kStages> ring;
    for_each_piece([&](int piece, int, int count) {
      s.ring.full[ring.stage].wait(ring.full_parity());
      with_width(s.ring.rows[ring.stage], [&](auto width) {
        constexpr int kWidth = decltype(width)::value;
        Sums<kWidth> sums;
        add_units<Fp8>(
            sums,
            s.ring,
            ring,
            count,
            0,
            1,
            [] { device::fence_shared_for_async(); },  // rows came by ordinary writes
            [](int) {}
        );
        if (count == a.blocks || share<kWidth>(sums, piece)) finish<kWidth>(sums, piece);
      });
    });
  }
};

template <bool Fp8>
__global__ void __launch_bounds__(kThreads, 1) gate_up(const Arguments a) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<Fp8>*>(memory);
  if (threadIdx.x == 0) s.ring.init(1 + kLoaders);
  __syncthreads();
  device::wait_for_predecessor();
  device::launch_successor();  // it may read at once what made the routes: that has ended
  GateUp<Fp8> work(a, s);
  if (threadIdx.x < kTileConsumers) {
    device::take_registers<kRegisters>();
    work.consume();
  } else {
    device::release_registers<56>();
    if (threadIdx.x < kTileConsumers + kLoaders) {
      work.load_rows();
    } else if (threadIdx.x == kTileConsumers + kLoaders) {
      work.load_weights();
    }
  }
}

}  // namespace

MoeHidden moe_tile_gate_up(
    Exec& exec, const GroupedMoe& args, const MoeRoutes& routes, const MoeInput& x
) {
  const bool fp8 = args.quantise_activations;
  const int64_t I = args.down.data.dim(2), C = args.x.dim(1);
  const int64_t all_rows = args.ids.elements(), E = args.gate_up.data.dim(0);
  const int ctas = cuda::multiprocessors(exec.device.index);
  const auto floats = [&](int64_t n) { return exec.workspace->alloc(DType::f32, {n}).as<float>(); };
  const Tensor rows = exec.workspace->alloc(fp8 ? DType::u8 : DType::bf16, {routes.places(), I});
  const MoeHidden h{
      .rows = static_cast<uint8_t*>(rows.data),
      .scale = fp8 ? floats(routes.places() * (I / kChannels)) : routes.weight,
      .places = routes.places()};
  const Arguments a{
      .routes = routes,
      .x = x,
      .w = static_cast<const uint8_t*>(args.gate_up.data.data),
      .w_scale = static_cast<const float*>(args.gate_up.scale.data),
      .h = h.rows,
      .h_scale = h.scale,
      .partial = floats(int64_t{ctas} * 2 * kTileItem * kTileConsumers),
      .arrivals = exec.semaphores,
      .I = static_cast<int>(I),
      .blocks = static_cast<int>(C * (fp8 ? 1 : 2) / kTileRowBytes),
      .ue8m0 = args.ue8m0,
      // Where an expert's rows are one item its weights come once.
      .w_policy = all_rows <= kTileItem * 4 / 5 * E ? device::kEvictFirst : device::kEvictNormal,
  };
  const size_t shared = fp8 ? sizeof(SharedStorage<true>) : sizeof(SharedStorage<false>);
  cuda::launch(
      exec,
      "grouped_moe",
      {.grid = dim3(static_cast<unsigned>(ctas)),
       .threads = kThreads,
       .shared_bytes = static_cast<int>(shared)},
      fp8 ? gate_up<true> : gate_up<false>,
      a
  );
  return h;
}

}  // namespace fathom::ops
