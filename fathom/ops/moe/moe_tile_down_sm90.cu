// grouped_moe, row tile_sm90, second product: y = sum over slots of weighted h down^T, in one
// launch. docs/kernels/grouped_moe.md.
//
// A piece of work is an item and 256 outputs, a slice, all of K. CTAs take pieces in turn and leave
// their products by row in memory. Warps without products to make sum the slots of each token in
// ascending order, a slice as soon as it is complete: three warps of every CTA from the beginning,
// all of them at the end. Nobody waits for a product to reach memory: its piece is reported when
// the next one has been multiplied.
//
// The order of pieces: with little K slice by slice, so that sums run beside products; else item by
// item, so that h and an expert's weights come from L2 after the first time.
#include <algorithm>

#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/async_copy.cuh"
#include "fathom/ops/device/matrix_store.cuh"
#include "fathom/ops/moe/moe_slots_sm90.cuh"
#include "fathom/ops/moe/moe_tile_sm90.cuh"

namespace fathom::ops {
namespace {

using device::Ring;

constexpr int kSlice = MoeSlots::kSlice;
constexpr int kHalf = MoeSlots::kHalf;
constexpr int kStages = 3;
constexpr int kRegisters = 216;                           // of a thread that makes products
constexpr int kThreads = kTileConsumers + 128;            // registers move by warpgroups
constexpr int kSummers = 3;                               // warps that make no products
constexpr int kSumming = kSummers + kTileConsumers / 32;  // warps that sum at some time
constexpr int kBoxRows = 32;                              // of h
constexpr int kAtOnce = 48;                               // rows that are staged
constexpr int64_t kLittleBytes = 512;                     // of K: then slice by slice

struct Arguments {
  MoeRoutes routes;
  const float* h_scale;  // MoeHidden
  const uint8_t* w;
  const float* w_scale;  // [E][C / 128][blocks]
  MoeSlotSums sums;
  int C, blocks, slices;
  bool by_item;  // the order of pieces
};

struct SharedStorage {
  MoeTileRing<kStages> ring;
  // Rows of each warpgroup as in memory, two parts in turn.
  alignas(128) __nv_bfloat16 out[2][2][kAtOnce][kHalf];
};

template <bool Fp8>
struct Down {
  const Arguments& a;
  SharedStorage& s;
  int items;

  __device__ int grid() const { return static_cast<int>(gridDim.x); }
  __device__ int pieces() const { return items * a.slices; }

  __device__ int slice_of(int piece) const { return a.by_item ? piece % a.slices : piece / items; }

  struct Unit {
    int piece, block, item, slice, expert, rows, first_row;
  };
  // Of CTA `blockIdx`, counted from 0.
  __device__ Unit first_unit() const {
    Unit u{static_cast<int>(blockIdx.x), 0, 0, 0, 0, 0, 0};
    find(u);
    return u;
  }
  __device__ void find(Unit& u) const {
    if (u.piece >= pieces()) return;
    u.slice = slice_of(u.piece);
    u.item = a.by_item ? u.piece / a.slices : u.piece - u.slice * items;
    u.expert = __ldcg(a.routes.expert + u.item);
    u.rows = __ldcg(a.routes.rows + u.item);
    u.first_row = __ldcg(a.routes.first_row + u.item);
  }
  __device__ void advance(Unit& u) const {
    if (++u.block < a.blocks) return;
    u.block = 0;
    u.piece += grid();
    find(u);
  }
  __device__ static uint32_t boxes(const Unit& u) {
    return static_cast<uint32_t>((u.rows + kBoxRows - 1) / kBoxRows);
  }

  // Outputs beyond the last are read as the last, and their products never summed.
  __device__ void load_weights(const Unit& u, int stage) {
    const uint8_t* tiles[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int tile = min(u.slice * 4 + i, a.C / 64 - 1);
      tiles[i] = a.w + ((int64_t{u.expert} * (a.C / 64) + tile) * a.blocks + u.block) * kTileBytes;
    }
    s.ring.rows[stage] = u.rows;
    s.ring.first_row[stage] = u.first_row;
    const uint32_t of_rows = boxes(u) * kBoxRows * (kTileRowBytes + sizeof(float));
    s.ring.load_weights(stage, tiles, of_rows, device::kEvictNormal);
    if constexpr (Fp8) load_weight_scales(u, stage);
  }

  __device__ void load_weight_scales(const Unit& u, int stage) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int line = min(u.slice * 2 + i, a.C / 128 - 1);
      const float* scales = a.w_scale + (int64_t{u.expert} * (a.C / 128) + line) * a.blocks;
      device::copy_4_async(&s.ring.w_scale[stage][i], scales + u.block);
    }
    device::arrive_after_copies(s.ring.full[stage]);
  }

  __device__ void load_rows(const device::TensorMap& h, const Unit& u, int stage) {
    for (int i = 0; i < static_cast<int>(boxes(u)); ++i) {
      device::box_load_3d(
          s.ring.x[stage] + i * kBoxRows * kTileRowBytes,
          h,
          0,
          u.item * kTileItem + i * kBoxRows,
          u.block,
          s.ring.full[stage],
          device::kEvictLast
      );
    }
    const int64_t line = Fp8 ? int64_t{u.item} * a.blocks + u.block : u.item;
    device::bulk_load(
        s.ring.x_scale[stage],
        a.h_scale + line * kTileItem,
        boxes(u) * kBoxRows * sizeof(float),
        s.ring.full[stage],
        device::kEvictLast
    );
  }

  // By one thread. The routes were there before the predecessor began: the first slots get their
  // weights before it has ended.
  __device__ void produce(const device::TensorMap& h) {
    Unit ahead = first_unit(), behind = ahead;
    int first_pass = 0;
    for (; first_pass < kStages && ahead.piece < pieces(); ++first_pass, advance(ahead))
      load_weights(ahead, first_pass);
    device::wait_for_predecessor();
    for (int i = 0; i < first_pass; ++i, advance(behind)) load_rows(h, behind, i);
    Ring<kStages> ring;
    for (; ahead.piece < pieces(); advance(ahead)) {
      s.ring.empty[ring.stage].wait(ring.full_parity());  // the slot's first emptying is phase 0
      load_weights(ahead, ring.stage);
      load_rows(h, ahead, ring.stage);
      ring.advance();
    }
  }

  __device__ static void meet(int half) {
    if (half == 0) {
      device::named_barrier<1>(kTileConsumers / 2);
    } else {
      device::named_barrier<2>(kTileConsumers / 2);
    }
  }

  // 64 outputs of Rows of a piece's rows, by one warpgroup; `sum` has them from First on.
  template <int First, int Rows, int Count>
  __device__ void stage(
      const float (&sum)[Count], __nv_bfloat16 (&out)[kAtOnce][kHalf], int first_row, int tile
  ) {
    const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
    const int chunk = tile * 8 + thread / 32 * 2 + lane / 8 % 2;
    const int row = lane / 16 * 8 + lane % 8;
#pragma unroll
    for (int j = 0; j < Rows / 8; j += 2) {
      const int v = First + 4 * j, beside = j + 1 < Rows / 8 ? v + 4 : v;
      const int r = 8 * j + row;
      device::store_blocks_transposed(
          device::shared_address(&out[r][MoeSlots::swizzled(chunk, first_row + r) * 8]),
          device::pack_bf16(sum[v], sum[v + 1]),
          device::pack_bf16(sum[v + 2], sum[v + 3]),
          device::pack_bf16(sum[beside], sum[beside + 1]),
          device::pack_bf16(sum[beside + 2], sum[beside + 3])
      );
    }
  }

  // By the thread that stored a piece of `slice`, -1: none. Its products are in L2 when the copy
  // has ended: counting it needs no fence.
  __device__ void report(int slice) const {
    if (slice < 0) return;
    device::wait_stores<0>();
    atomicAdd(a.sums.stored + slice, 1u);
  }

  // A piece's products on their way to memory; reports the piece before, of slice `pending`.
  template <int Width>
  __device__ void store(
      const MoeTileSums<Fp8, Width, kRegisters>& sums,
      int first_row,
      int slice,
      int rows,
      int& pending
  ) {
    if (threadIdx.x % 128 == 0) report(pending);
    pending = slice;
    store_from<Width, 0>(sums, first_row, slice, rows);
  }

  // Its rows from Row on, a part at a time.
  template <int Width, int Row>
  __device__ void store_from(
      const MoeTileSums<Fp8, Width, kRegisters>& sums, int first_row, int slice, int rows
  ) {
    constexpr int kPart = part_of_width(Width, kAtOnce);
    const int half = static_cast<int>(threadIdx.x) / 128;
    const bool speaks = threadIdx.x % 128 == 0;
    auto& out = s.out[half][Row / kPart % 2];
    if (speaks) device::wait_stores_read<1>();
    meet(half);  // what was staged there before has been read
    stage<Row / 2, kPart>(sums.of[0], out, first_row + Row, 0);
    stage<Row / 2, kPart>(sums.of[1], out, first_row + Row, 1);
    device::fence_shared_for_async();
    meet(half);
    if (speaks) {
      const int count = min(rows - Row, kPart);
      if (count > 0)
        device::bulk_store(
            a.sums.slots.half_of(slice, half) + int64_t{first_row + Row} * kHalf,
            out,
            static_cast<uint32_t>(count) * kHalf * sizeof(__nv_bfloat16)
        );
      device::commit_stores();
    }
    if constexpr (Row + kPart < Width) store_from<Width, Row + kPart>(sums, first_row, slice, rows);
  }

  // BF16: the routing weights, once for all of K.
  template <int Width>
  __device__ void weigh(MoeTileSums<Fp8, Width, kRegisters>& sums, int stage) {
    const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int i = 0; i < Width / 2; ++i) {
      const float weight = s.ring.x_scale[stage][i / 4 * 8 + column + i % 2];
      sums.of[0][i] *= weight;
      sums.of[1][i] *= weight;
    }
  }

  __device__ void consume() {
    device::wait_for_predecessor();
    const int half = static_cast<int>(threadIdx.x) / 128;
    int pending = -1;
    Ring<kStages> ring;
    for (int piece = static_cast<int>(blockIdx.x); piece < pieces(); piece += grid()) {
      s.ring.full[ring.stage].wait(ring.full_parity());
      const int rows = s.ring.rows[ring.stage], first_row = s.ring.first_row[ring.stage];
      const int slice = slice_of(piece);
      with_width(rows, [&](auto width) {
        MoeTileSums<Fp8, decltype(width)::value, kRegisters> sums;
        add_units<Fp8>(sums, s.ring, ring, a.blocks, half, half, [&](int last) {
          if constexpr (!Fp8) weigh(sums, last);
        });
        store(sums, first_row, slice, rows, pending);
      });
    }
    if (threadIdx.x % 128 == 0) report(pending);
    __syncwarp();
    sum_parts();
  }

  // Two warpgroups report each piece of a slice.
  __device__ void sum_parts() const {
    a.sums.sum_parts(2 * items, grid() * kSumming);
  }
};

template <bool Fp8>
__global__ void __launch_bounds__(kThreads, 1)
    down(const Arguments a, const __grid_constant__ device::TensorMap h) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage*>(memory);
  if (threadIdx.x == 0) {
    device::prefetch_map(h);
    s.ring.init(Fp8 ? 2 : 1);
  }
  __syncthreads();
  device::launch_successor();
  Down<Fp8> work{a, s, __ldcg(a.routes.items)};
  if (threadIdx.x < kTileConsumers) {
    device::take_registers<kRegisters>();
    work.consume();
  } else {
    device::release_registers<72>();
    const int warp = static_cast<int>(threadIdx.x - kTileConsumers) / 32;
    if (warp < kSummers) {
      device::wait_for_predecessor();
      work.sum_parts();
    } else if (threadIdx.x % 32 == 0) {
      work.produce(h);
    } else {
      device::wait_for_predecessor();
    }
  }
}

MoeSlotSums sums_of(const Exec& exec, const GroupedMoe& args, const MoeRoutes& routes, int slices) {
  const int64_t T = args.x.dim(0), rows = args.ids.elements();
  constexpr int64_t kParts = 512;  // of a slice's sum, about
  const int64_t part_tokens = (T + kParts - 1) / kParts;
  uint32_t* counters = exec.semaphores + Exec::kSemaphoreWords / 2;
  const Tensor products = exec.workspace->alloc(DType::bf16, {slices, rows, kSlice});
  return {
      .slots = {.data = static_cast<__nv_bfloat16*>(products.data), .rows = rows},
      .row = routes.row,
      .addend = static_cast<const __nv_bfloat16*>(args.addend.data),
      .y = static_cast<__nv_bfloat16*>(args.y.data),
      .addend_stride = args.addend.defined() ? args.addend.stride(0) : 0,
      .y_stride = args.y.stride(0),
      .stored = counters,
      .claimed = counters + slices,
      .ended = counters + slices + 1,
      .T = static_cast<int>(T),
      .k = static_cast<int>(args.ids.dim(1)),
      .C = static_cast<int>(args.x.dim(1)),
      .slices = slices,
      .part_tokens = static_cast<int>(part_tokens),
      .parts = static_cast<int>((T + part_tokens - 1) / part_tokens),
  };
}

}  // namespace

void moe_tile_down(
    Exec& exec, const GroupedMoe& args, const MoeRoutes& routes, const MoeHidden& h
) {
  const bool fp8 = args.quantise_activations;
  const int64_t C = args.x.dim(1), I = args.down.data.dim(2);
  const int slices = static_cast<int>((C + kSlice - 1) / kSlice);
  const Arguments a{
      .routes = routes,
      .h_scale = h.scale,
      .w = static_cast<const uint8_t*>(args.down.data.data),
      .w_scale = static_cast<const float*>(args.down.scale.data),
      .sums = sums_of(exec, args, routes, slices),
      .C = static_cast<int>(C),
      .blocks = static_cast<int>(I * (fp8 ? 1 : 2) / kTileRowBytes),
      .slices = slices,
      .by_item = I * (fp8 ? 1 : 2) > kLittleBytes,
  };
  const cuda::LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(cuda::multiprocessors(exec.device.index))),
      .threads = kThreads,
      .shared_bytes = sizeof(SharedStorage)};
  const cuda::TensorMap map = map_of_hidden(args, h, kBoxRows, 1);
  cuda::launch(exec, "grouped_moe", shape, fp8 ? down<true> : down<false>, a, map);
}

}  // namespace fathom::ops
