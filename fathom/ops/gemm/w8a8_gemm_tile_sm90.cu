// w8a8_gemm, row tile_sm90: any number of tokens, WGMMA of int8; of FP8 up to 128 tokens, more are
// fp8_tile_sm90.cuh's. A first kernel rounds x, a CTA a
// token; the second goes as bf16_gemm's row tile_sm90 does (docs/kernels/bf16_gemm.md): a producer
// thread fills a ring of slots, each 128 of K, with tiles of weights, the first ones before its
// predecessor has ended, and boxes of tokens' codes; warpgroups multiply 64 tokens with all
// columns. Scales come last, in registers. Tensor cores sum FP8 with about 14 bits: each slot's
// sums are added up in float.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/fragment_box.cuh"
#include "fathom/ops/device/mma_int8_sm90.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/gemm/tile_sharing.cuh"
#include "fathom/ops/gemm/w8a8_gemm_rows.h"
#include "fathom/ops/gemm/weight_tiles.h"
#include "fathom/ops/quant/row_codes.h"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Ring;
using device::Vec;

constexpr int kDepth = 128;  // of K in a slot, and bytes of its rows

struct Int8Form {
  using Sum = int;
  static constexpr DType kCodes = DType::i8, kSums = DType::i32;
};
struct Fp8Form {
  using Sum = float;
  static constexpr DType kCodes = DType::f8e4m3, kSums = DType::f32;
};

struct Arguments {
  const uint8_t* w;  // tiles
  const float *x_scale, *w_scale;
  const void* bias;  // null: none
  void* y;
  int64_t y_stride;
  void* partial;  // of Sum: TileSharing
  uint32_t* arrivals;
  int M, N, w_tiles;  // w_tiles: of 64 rows
  TilePlan plan;
  bool wide_y, wide_bias;
  bool boxes;  // y leaves as boxes of bf16
};

template <int Groups, int Columns, int Stages>
struct SharedStorage {
  uint8_t x[Stages][Groups * 64 * kDepth];
  uint8_t w[Stages][Columns * kDepth];
  uint8_t y[Groups][device::kBoxBytes];
  Barrier full[Stages], empty[Stages];
};

template <class Form, int Groups, int Columns, int Stages>
struct Product {
  using Storage = SharedStorage<Groups, Columns, Stages>;
  static constexpr int kConsumers = Groups * 128;
  static constexpr int kSums = Columns / 2;
  using Sum = typename Form::Sum;
  using Sharing = TileSharing<Groups, 1, kSums, Sum>;

  const Arguments& a;
  Storage& s;
  const device::TensorMap& y;

  // Tiles beyond the last row are left out: nobody reads what their sums give.
  __device__ void load_weights(const TilePiece& p, int block, int stage) {
    const int first = a.plan.column(p.tile) / 64, tiles = min(Columns / 64, a.w_tiles - first);
    s.full[stage].arrive_expect(
        static_cast<uint32_t>(Groups * 64 * kDepth + tiles * static_cast<int>(kTileBytes))
    );
    for (int i = 0; i < tiles; ++i) {
      const uint8_t* from = a.w + (int64_t{first + i} * a.plan.blocks + block) * kTileBytes;
      device::bulk_load(
          s.w[stage] + i * kTileBytes, from, kTileBytes, s.full[stage], device::kEvictNormal
      );
    }
  }

  // The first slots get their weights before the predecessor has ended.
  __device__ void produce(const device::TensorMap& x) {
    const int cta = static_cast<int>(blockIdx.x);
    int ahead = 0;  // slots whose weights are on their way
    a.plan.for_each_piece(cta, [&](const TilePiece& p) {
      for (int block = p.first; block < p.last && ahead < Stages; ++block, ++ahead)
        load_weights(p, block, ahead);
    });
    device::launch_successor();
    device::wait_for_predecessor();
    Ring<Stages> ring;
    int slot = 0;
    a.plan.for_each_piece(cta, [&](const TilePiece& p) {
      const int token = a.plan.token(p.tile);
      for (int block = p.first; block < p.last; ++block, ++slot) {
        if (slot >= ahead) {
          s.empty[ring.stage].wait(ring.empty_parity());
          load_weights(p, block, ring.stage);
        }
        device::box_load(
            s.x[ring.stage], x, block * kDepth, token, s.full[ring.stage], device::kEvictLast
        );
        ring.advance();
      }
    });
  }

  __device__ void consume() {
    const int group = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
    device::wait_for_predecessor();
    Ring<Stages> ring;
    a.plan.for_each_piece(static_cast<int>(blockIdx.x), [&](const TilePiece& p) {
      typename Sharing::Sums sums;
      multiply(p, group, ring, sums[0]);
      const int first = a.plan.token(p.tile) + group * 64;
      const bool live = first + place().row[0] < a.M;
      const Sharing sharing{
          a.plan, static_cast<Sum*>(a.partial), a.arrivals, group, 1 + group, live};
      if (p.first > 0) return sharing.give(sums);
      if (p.last < a.plan.blocks) sharing.add(p.tile, sums);
      store(sums[0], group, first, a.plan.column(p.tile));
    });
    if (threadIdx.x % 128 == 0) device::wait_stores_read<0>();
  }

  // The operands in a slot.
  struct Slots {
    uint64_t x, w;
    __device__ Slots(const Storage& s, int group)
        : x(device::operand_descriptor(s.x[0] + group * 64 * kDepth)),
          w(device::operand_descriptor(s.w[0])) {}
    __device__ uint64_t x_of(int stage) const {
      return x + static_cast<uint64_t>(stage) * (Groups * 64 * kDepth / 16);
    }
    __device__ uint64_t w_of(int stage) const {
      return w + static_cast<uint64_t>(stage) * (Columns * kDepth / 16);
    }
  };

  // One slot's products stay under way while the next one's are given.
  __device__ void multiply(const TilePiece& p, int group, Ring<Stages>& ring, int (&sum)[kSums]) {
    const Slots at(s, group);
    int before = 0;  // the slot whose products are under way
    for (int block = p.first; block < p.last; ++block) {
      s.full[ring.stage].wait(ring.full_parity());
      const uint64_t x_slot = at.x_of(ring.stage), w_slot = at.w_of(ring.stage);
      device::pin(sum);
      device::wgmma_fence();
#pragma unroll
      for (int k = 0; k < kDepth / 32; ++k) {
        const auto step = static_cast<uint64_t>(2 * k);
        device::mma_int8(sum, x_slot + step, w_slot + step, block > p.first || k > 0);
      }
      device::wgmma_commit();
      device::wgmma_wait<1>();
      if (block > p.first && threadIdx.x % 32 == 0) s.empty[before].arrive();
      before = ring.stage;
      ring.advance();
    }
    device::wgmma_wait<0>();
    device::pin(sum);
    if (threadIdx.x % 32 == 0) s.empty[before].arrive();
  }

  // A slot's products into a fresh fragment; the slot.
  __device__ int begin(const Slots& at, Ring<Stages>& ring, float (&product)[kSums]) {
    const int stage = ring.stage;
    s.full[stage].wait(ring.full_parity());
    device::wgmma_fence();
    device::mma_e4m3_tile(product, at.x_of(stage), at.w_of(stage));
    device::wgmma_commit();
    ring.advance();
    return stage;
  }

  __device__ void add(float (&sum)[kSums], float (&product)[kSums], int stage) {
    device::pin(product);
    if (threadIdx.x % 32 == 0) s.empty[stage].arrive();
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum[i] += product[i];
  }

  // A slot's products run while the one before is added, where registers hold both; else another
  // warpgroup's do.
  __device__ void multiply(const TilePiece& p, int group, Ring<Stages>& ring, float (&sum)[kSums]) {
    const Slots at(s, group);
    float first[kSums], second[kSums];
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum[i] = 0;
    if constexpr (Groups > 1) {
      for (int block = p.first; block < p.last; ++block) {
        const int stage = begin(at, ring, first);
        device::wgmma_wait<0>();
        add(sum, first, stage);
      }
      return;
    }
    int before = begin(at, ring, first);
    for (int block = p.first + 1; block < p.last; block += 2) {
      const int next = begin(at, ring, second);
      device::wgmma_wait<1>();
      add(sum, first, before);
      if (block + 1 == p.last) {
        device::wgmma_wait<0>();
        return add(sum, second, next);
      }
      before = begin(at, ring, first);
      device::wgmma_wait<1>();
      add(sum, second, next);
    }
    device::wgmma_wait<0>();
    add(sum, first, before);
  }

  // This thread's tokens, 8 apart, and its first column of eight.
  struct Place {
    int row[2], pair;
  };
  __device__ static Place place() {
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int row = thread / 32 * 16 + thread % 32 / 4;
    return {{row, row + 8}, thread % 4 * 2};
  }

  __device__ float bias(int n) const {
    if (a.bias == nullptr) return 0.0f;
    return a.wide_bias ? __ldg(static_cast<const float*>(a.bias) + n)
                       : Vec<__nv_bfloat16>::load(static_cast<const __nv_bfloat16*>(a.bias) + n);
  }

  // 64 columns at a time, through this warpgroup's box or element by element.
  __device__ void store(const Sum (&sum)[kSums], int group, int token, int column) {
    const Place at = place();
    float x_scale[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) x_scale[h] = __ldcg(a.x_scale + min(token + at.row[h], a.M - 1));
#pragma unroll
    for (int box = 0; box < Columns / 64; ++box) {
      const int first = column + 64 * box;
      float v[32];
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        const int n = min(first + i / 4 * 8 + at.pair + i % 2, a.N - 1);
        v[i] = static_cast<float>(sum[32 * box + i]) * x_scale[i / 2 % 2] * __ldg(a.w_scale + n) +
               bias(n);
      }
      if (a.boxes) {
        store_box(v, group, token, first);
      } else {
        store_elements(v, at, token, first);
      }
    }
  }

  // The copy engine drops what lies outside y.
  __device__ void store_box(const float (&v)[32], int group, int token, int column) {
    const bool leader = threadIdx.x % 128 == 0;
    if (leader) device::wait_stores_read<0>();
    device::named_barrier(1 + group, 128);
    device::fill_box(s.y[group], v);
    device::fence_shared_for_async();
    device::named_barrier(1 + group, 128);
    if (!leader) return;
    if (column < a.N && token < a.M) device::box_store(y, s.y[group], column, token);
    device::commit_stores();
  }

  __device__ void store_elements(const float (&v)[32], const Place& at, int token, int column)
      const {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int m = token + at.row[i / 2 % 2], n = column + i / 4 * 8 + at.pair + i % 2;
      if (m >= a.M || n >= a.N) continue;
      const int64_t to = m * a.y_stride + n;
      a.wide_y ? Vec<float>::store(static_cast<float*>(a.y) + to, v[i])
               : Vec<__nv_bfloat16>::store(static_cast<__nv_bfloat16*>(a.y) + to, v[i]);
    }
  }
};

// Resident: CTAs of a multiprocessor. Where it is one, registers move by warpgroups.
constexpr int threads_of(int groups, int resident) {
  return groups * 128 + (resident == 1 ? 128 : 32);
}

template <class Form, int Groups, int Columns, int Stages, int Resident>
__global__ void __launch_bounds__(threads_of(Groups, Resident), Resident) multiply(
    const Arguments a,
    const __grid_constant__ device::TensorMap x,
    const __grid_constant__ device::TensorMap y
) {
  extern __shared__ __align__(1024) uint8_t memory[];
  using Work = Product<Form, Groups, Columns, Stages>;
  auto& s = *reinterpret_cast<typename Work::Storage*>(memory);
  Work work{a, s, y};
  const bool producer = threadIdx.x == Work::kConsumers;
  if (producer) {
    device::prefetch_map(x);
    for (int i = 0; i < Stages; ++i) {
      s.full[i].init(1);
      s.empty[i].init(Work::kConsumers / 32);
    }
    device::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < Work::kConsumers) {
    if constexpr (Resident == 1) device::take_registers<232>();
    work.consume();
  } else {
    if constexpr (Resident == 1) device::release_registers<40>();
    if (producer) work.produce(x);
  }
}

cuda::TensorMap map_of(const Tensor& t, DType dtype, int64_t row_bytes, int rows, int columns) {
  return cuda::make_matrix_map(
      t.data, dtype, t.dim(0), t.dim(1), row_bytes, rows, columns, cuda::Swizzle::bytes128
  );
}

template <class Form, int Groups, int Columns, int Stages, int Resident>
void run(Exec& exec, const W8a8Gemm& args, const RowCodes& x, const TilePlan& plan) {
  const int64_t M = args.x.dim(0), N = args.y.dim(1);
  Arguments a{
      .w = static_cast<const uint8_t*>(args.w.data.data),
      .x_scale = x.scale.as<float>(),
      .w_scale = args.w.scale.as<float>(),
      .bias = args.bias.data,
      .y = args.y.data,
      .y_stride = args.y.stride(0),
      .partial = nullptr,
      .arrivals = exec.semaphores,
      .M = static_cast<int>(M),
      .N = static_cast<int>(N),
      .w_tiles = static_cast<int>(tiled_rows(N) / kTileRows),
      .plan = plan,
      .wide_y = args.y.dtype == DType::f32,
      .wide_bias = args.bias.defined() && args.bias.dtype == DType::f32,
      .boxes = args.y.dtype == DType::bf16 && args.y.stride(0) % 8 == 0 &&
               reinterpret_cast<uintptr_t>(args.y.data) % 16 == 0,
  };
  if (plan.cut_tiles > 0) {
    const int64_t sums = int64_t{plan.ctas} * plan.tokens * plan.columns;
    a.partial = exec.workspace->alloc(Form::kSums, {sums}).data;
  }
  // A byte is a byte to the copy engine.
  const cuda::TensorMap codes =
      map_of(x.codes, DType::f8e4m3, x.codes.stride(0), Groups * 64, kDepth);
  cuda::launch(
      exec,
      "w8a8_gemm",
      {.grid = dim3(static_cast<unsigned>(plan.ctas)),
       .threads = threads_of(Groups, Resident),
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<Groups, Columns, Stages>))},
      multiply<Form, Groups, Columns, Stages, Resident>,
      a,
      codes,
      a.boxes ? map_of(args.y, DType::bf16, 2 * a.y_stride, 64, 64) : codes
  );
}

// Up to 128: narrow tiles, two CTAs a multiprocessor, so that all of them read weights.
template <class Form>
void run_few(Exec& exec, const W8a8Gemm& args, const RowCodes& x, int sms) {
  const int64_t M = args.x.dim(0), N = args.y.dim(1), blocks = args.x.dim(1) / kDepth;
  if (M <= 64) {
    run<Form, 1, 64, 6, 2>(exec, args, x, plan_few_tokens(M, N, blocks, 64, 64, 2 * sms));
  } else {
    run<Form, 2, 64, 4, 2>(exec, args, x, plan_few_tokens(M, N, blocks, 128, 64, 2 * sms));
  }
}

}  // namespace

bool w8a8_gemm_takes_tile(const Exec&, const W8a8Gemm& args) {
  return args.w.data.dtype == DType::i8x64 || args.w.data.dtype == DType::f8e4m3x64;
}

void w8a8_gemm_tile_sm90(Exec& exec, const W8a8Gemm& args) {
  Workspace::Mark mark(*exec.workspace);
  const int64_t M = args.x.dim(0), N = args.y.dim(1), blocks = args.x.dim(1) / kDepth;
  if (M == 0 || N == 0) return;
  const bool fp8 = args.w.data.dtype == DType::f8e4m3x64, few = M <= 128;
  const RowCodes x =
      round_rows(exec, "w8a8_gemm", args.x, fp8 ? Fp8Form::kCodes : Int8Form::kCodes);
  const int sms = cuda::multiprocessors(exec.device.index);
  if (few)
    return fp8 ? run_few<Fp8Form>(exec, args, x, sms) : run_few<Int8Form>(exec, args, x, sms);
  if (fp8) return w8a8_gemm_fp8_tiles(exec, args, x);
  run<Int8Form, 2, 256, 4, 1>(exec, args, x, plan_whole_tiles(M, N, blocks, 128, 256, sms));
}

}  // namespace fathom::ops
