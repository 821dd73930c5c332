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

constexpr int kLoaders = 96;  // of rows of x: three warps; a fourth loads weights and scales
constexpr int kThreads = kTileConsumers + kLoaders + 32;
constexpr int kChannels = kHiddenChannels;  // of h in a piece
constexpr int kRowsAtOnce = kLoaders / 8;
constexpr int kRows = (kTileItem + kRowsAtOnce - 1) / kRowsAtOnce;  // of an item, a loader's
constexpr int kStages = 4;
constexpr int kRegisters = 232;  // of a consumer

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
    for (int unit = __shfl_sync(device::kFullWarp, begin, 0); unit < end;) {
      const int index = unit / a.blocks, first = unit - index * a.blocks;
      const int count = min(a.blocks - first, end - unit);
      f(in_turn ? static_cast<int>(blockIdx.x) + index * static_cast<int>(gridDim.x) : index,
        first,
        count);
      unit += count;
    }
  }

  // A piece's weights and scales, as one warp brings them: weights by its first lane.
  struct Weights {
    static constexpr int kTokens = kTileItem / 32;
    int rows;
    const uint8_t* tiles[4];         // gate and up of the first warpgroup, of the second
    int token[kTokens];              // of rows lane + 32 i; -1: none
    const float *x_scale, *w_scale;  // w_scale: gate's and up's, by lanes 0 and 1
  };

  __device__ Weights weights_of(int piece, int first) const {
    const int lane = thread_read_here() % 32;
    const int item = piece / groups, group = piece - item * groups;
    const int64_t tile = int64_t{a.blocks} * kTileBytes, expert_tiles = 2 * a.I / 64;
    const int64_t expert = __ldcg(a.routes.expert + item);
    Weights w;
    w.rows = __ldcg(a.routes.rows + item);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t of = expert * expert_tiles + group * 2 + i / 2 + i % 2 * (expert_tiles / 2);
      w.tiles[i] = a.w + of * tile + first * kTileBytes;
    }
    if constexpr (Fp8) {
#pragma unroll
      for (int i = 0; i < Weights::kTokens; ++i) {
        const int token = __ldcg(a.routes.token + item * kTileItem + lane + 32 * i);
        w.token[i] = lane + 32 * i < w.rows ? token : -1;
      }
      w.x_scale = a.x.scale + int64_t{first} * a.x.scale_columns;
      w.w_scale = a.w_scale + ((expert * 2 + lane) * groups + group) * a.blocks + first;
    }
    return w;
  }

  __device__ void load_scales(Weights& w, int stage, int lane) {
    asm("" : "+l"(w.x_scale), "+l"(w.w_scale));  // addresses stay in registers
#pragma unroll
    for (int i = 0; i < Weights::kTokens; ++i) {
      if (w.token[i] < 0) continue;
      device::copy_4_async(
          &s.ring.x_scale[stage][lane + 32 * i], w.x_scale + static_cast<uint32_t>(w.token[i])
      );
    }
    if (lane < 2) device::copy_4_async(&s.ring.w_scale[stage][lane], w.w_scale);
    device::arrive_after_copies(s.ring.full[stage]);
    w.x_scale += a.x.scale_columns;
    ++w.w_scale;
  }

  __device__ void load_weights() {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    Ring<kStages> ring;
    for_each_piece([&](int piece, int first, int count) {
      Weights w = weights_of(piece, first);
      for (; count > 0; --count) {
        s.ring.empty[ring.stage].wait(ring.empty_parity());
        if (lane == 0) {
          s.ring.rows[ring.stage] = w.rows;
          s.ring.load_weights(ring.stage, w.tiles, 0, a.w_policy);
#pragma unroll
          for (int i = 0; i < 4; ++i) w.tiles[i] += kTileBytes;
        }
        __syncwarp();
        if constexpr (Fp8) load_scales(w, ring.stage, lane);
        ring.advance();
      }
    });
  }

  // A piece's rows of x as a loader brings them: eight threads a row of 128 bytes.
  struct Rows {
    const uint8_t* x;  // the unit's block of row 0
    int from[kRows];   // this thread's chunk of a row from row 0's, in 16 bytes; -1: no row
  };

  __device__ Rows rows_of(int piece, int first) const {
    const int thread = thread_read_here() - kTileConsumers;
    const int item = piece / groups, rows = __ldcg(a.routes.rows + item);
    const int row_chunks = static_cast<int>(a.x.row_bytes / 16);
    const int* tokens = a.routes.token + item * kTileItem;
    asm("" : "+l"(tokens));
    Rows r;
    r.x = a.x.rows + int64_t{first} * kTileRowBytes;
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      const int row = thread / 8 + kRowsAtOnce * j;
      r.from[j] = row < rows ? __ldcg(tokens + row) : -1;
    }
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      if (r.from[j] >= 0) r.from[j] = r.from[j] * row_chunks + thread % 8;
    }
    return r;
  }

  __device__ void gather(Rows& r, int stage, int thread) {
    static_assert(kRowsAtOnce % 8 == 4);
    const int row = thread / 8;
    const uint32_t to_row = device::shared_address(s.ring.x[stage]) + row * kTileRowBytes;
    uint32_t to[2] = {// of even and odd j
                      to_row + (thread % 8 ^ (row & 7)) * 16,
                      to_row + (thread % 8 ^ (row + 4 & 7)) * 16};
    asm("" : "+l"(r.x), "+r"(to[0]), "+r"(to[1]));  // a row's copy takes one address more
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      if (r.from[j] < 0) continue;
      device::copy_16_async(
          to[j % 2] + j * kRowsAtOnce * kTileRowBytes,
          r.x + uint64_t{static_cast<uint32_t>(r.from[j])} * 16
      );
    }
    r.x += kTileRowBytes;
  }

  // This warp's copies of a slot have landed: WGMMA may read them.
  __device__ void report_rows(int stage) {
    device::fence_shared_for_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) s.ring.full[stage].arrive();
  }

  // A unit is reported when the next one's copies are on their way.
  __device__ void load_rows() {
    const int thread = static_cast<int>(threadIdx.x) - kTileConsumers;
    Ring<kStages> ring;
    for_each_piece([&](int piece, int first, int count) {
      Rows r = rows_of(piece, first);
      int behind = -1;
      for (; count > 0; --count) {
        s.ring.empty[ring.stage].wait(ring.empty_parity());
        gather(r, ring.stage, thread);
        device::commit_copies();
        if (behind >= 0) {
          device::wait_copies<1>();
          report_rows(behind);
        }
        behind = ring.stage;
        ring.advance();
      }
      device::wait_copies<0>();
      report_rows(behind);
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
        add_units<Fp8>(sums, s.ring, ring, count, 0, 1, [](int) {});
        if (count == a.blocks || share<kWidth>(sums, piece)) finish<kWidth>(sums, piece);
      });
    });
  }
};

template <bool Fp8>
__global__ void __launch_bounds__(kThreads, 1) gate_up(const Arguments a) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<Fp8>*>(memory);
  if (threadIdx.x == 0) s.ring.init(1 + kLoaders / 32 + (Fp8 ? 32 : 0));
  __syncthreads();
  device::wait_for_predecessor();
  device::launch_successor();  // it may read at once what made the routes: that has ended
  GateUp<Fp8> work(a, s);
  if (threadIdx.x < kTileConsumers) {
    device::take_registers<kRegisters>();
    work.consume();
  } else {
    device::release_registers<40>();
    if (threadIdx.x < kTileConsumers + kLoaders) {
      work.load_rows();
    } else {
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
