// mha_prefill, row sm90: WGMMA, BF16, paged keys and values by TMA. docs/kernels/mha_prefill.md.
//
// Keys of D elements, values of Dv: 64, 128, or the expanded form of MLA, 192 and 128. A CTA takes
// 128 queries of one row and one key head: its tokens times the heads of the group, so
// that short rows fill the tile too. A producer warp brings blocks of 128 keys and values, from the
// last that the tile sees down to the first; each of two consumer warpgroups has 64 queries:
//   S = Q K^T of this block and O += P V of the block before, both under way at once;
//   softmax of S while O is computed (FlashAttention-3, section 3.2).
// Only blocks at the diagonal, at the row's end and at the window's edge are masked.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/mha_prefill_rows.h"
#include "fathom/ops/attention/paged_rows.cuh"
#include "fathom/ops/device/mma_registers_sm90.cuh"
#include "fathom/ops/device/mma_sm90.cuh"
#include "fathom/ops/device/pipeline.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops {
namespace {

using device::Barrier;
using device::Ring;

constexpr int kQueries = 128;
constexpr int kKeys = 128;  // of a block
constexpr int kConsumers = 256;
constexpr int kStages = 2;
constexpr int kPanelBytes = 128 * 128;  // 128 rows of 64 elements
constexpr float kLog2e = 1.44269504f;

struct Arguments {
  attention::Rows rows;
  const __nv_bfloat16* q;
  const float* sinks;  // null: none
  __nv_bfloat16* y;
  float* lse;  // null: not wanted
  int64_t q_stride, y_stride, lse_stride;
  int group, page, window;
  bool causal;
  float scale;  // with log2 e
};

template <int D, int Dv>
struct SharedStorage {
  uint8_t q[D / 64][kPanelBytes];
  uint8_t keys[kStages][D / 64][kPanelBytes];
  uint8_t values[kStages][Dv / 64][kPanelBytes];
  Barrier keys_full[kStages], keys_empty[kStages], values_full[kStages], values_empty[kStages];
};

// 128 queries: query r of the row is head r % group of its token r / group.
struct Tile {
  int row = -1;              // -1: nothing
  int first_query, queries;  // of the row
  int first_token;           // of the step: that of the first query
  int first_position;        // not causal: the row's last, for all queries
  int first_block, blocks;   // of keys; the last one first
};

// The CTA's tile, counted from the last one of the step: those see the most keys.
__device__ Tile find_tile(const Arguments& a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int left = static_cast<int>(blockIdx.x);
  for (int base = a.rows.count - 1; base >= 0; base -= 32) {
    const int row = base - lane;
    const int count = row >= 0 ? a.rows.row_begin[row + 1] - a.rows.row_begin[row] : 0;
    const int own = (count * a.group + kQueries - 1) / kQueries;
    int sum = own;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(device::kFullWarp, sum, d);
      if (lane >= d) sum += other;
    }
    const uint32_t reached = __ballot_sync(device::kFullWarp, sum > left);
    if (reached == 0) {
      left -= __shfl_sync(device::kFullWarp, sum, 31);
      continue;
    }
    const int found = __ffs(static_cast<int>(reached)) - 1;
    Tile tile;
    tile.row = base - found;
    const int inside = left - (__shfl_sync(device::kFullWarp, sum, found) -
                               __shfl_sync(device::kFullWarp, own, found));
    const int index = __shfl_sync(device::kFullWarp, own, found) - 1 - inside;
    const int tokens = __shfl_sync(device::kFullWarp, count, found);
    const int first = index * kQueries / a.group;  // a tile may begin inside a token
    tile.queries = min(kQueries, tokens * a.group - index * kQueries);
    tile.first_token = a.rows.row_begin[tile.row] + first;
    tile.first_query = index * kQueries;
    tile.first_position = a.rows.kv_len[tile.row] - tokens + first;
    int last = a.rows.kv_len[tile.row] - tokens + (index * kQueries + tile.queries - 1) / a.group;
    if (!a.causal) tile.first_position = last = a.rows.kv_len[tile.row] - 1;
    const int seen = a.window > 0 ? max(tile.first_position - a.window + 1, 0) : 0;
    tile.first_block = seen / kKeys;
    tile.blocks = (last + kKeys) / kKeys - tile.first_block;  // none where nothing is cached
    return tile;
  }
  return {};
}

template <int D, int Dv>
struct Prefill {
  using Storage = SharedStorage<D, Dv>;
  static constexpr int kScores = kKeys / 2;  // registers of a thread

  const Arguments& a;
  Storage& s;
  Tile tile;
  int head;  // key head

  // The token of query r of the tile, from the first query's on.
  __device__ int token_of(int r) const {
    return (tile.first_query + r) / a.group - tile.first_query / a.group;
  }

  // A lane for each box: a page's 64 elements of every key.
  template <int kPanels>
  __device__ void load(
      const device::TensorMap& map,
      uint8_t (&panels)[kPanels][kPanelBytes],
      Barrier& full,
      int block
  ) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int pages = kKeys / a.page;
    const int32_t* table = a.rows.pages + a.rows.page_begin[tile.row];
    const int last = (a.rows.kv_len[tile.row] - 1) / a.page;
    if (lane == 0) full.arrive_expect(kPanels * kPanelBytes);
    __syncwarp();
    for (int i = lane; i < pages * kPanels; i += 32) {
      const int page = i / kPanels, panel = i % kPanels;
      // Beyond the row's end the last page is read again, and masked.
      const int id = table[min(block * pages + page, last)];
      device::box_load_4d(
          panels[panel] + page * a.page * 128,
          map,
          panel * 64,
          0,
          head,
          id,
          full,
          device::kEvictNormal
      );
    }
  }

  __device__ void produce(const device::TensorMap& keys, const device::TensorMap& values) const {
    Ring<kStages> ring;
    for (int i = tile.blocks - 1; i >= 0; --i) {
      const int block = tile.first_block + i;
      s.keys_empty[ring.stage].wait(ring.empty_parity());
      load(keys, s.keys[ring.stage], s.keys_full[ring.stage], block);
      s.values_empty[ring.stage].wait(ring.empty_parity());
      load(values, s.values[ring.stage], s.values_full[ring.stage], block);
      ring.advance();
    }
  }

  // The warpgroup's 64 queries, swizzled as WGMMA reads them; beyond the tile's end zeros.
  __device__ void load_queries(int group) const {
    constexpr int kChunks = D / 8;
    const int thread = static_cast<int>(threadIdx.x) % 128;
#pragma unroll
    for (int i = thread; i < 64 * kChunks; i += 128) {
      const int r = group * 64 + i / kChunks, chunk = i % kChunks;
      uint4 v = {0, 0, 0, 0};
      if (r < tile.queries) {
        const int query_head = head * a.group + (tile.first_query + r) % a.group;
        const int64_t token = tile.first_token + token_of(r);
        v = *reinterpret_cast<const uint4*>(
            a.q + token * a.q_stride + int64_t{query_head} * D + chunk * 8
        );
      }
      uint8_t* to = s.q[chunk / 8] + r * 128 + ((chunk % 8) ^ (r & 7)) * 16;
      *reinterpret_cast<uint4*>(to) = v;
    }
    device::fence_shared_for_async();
    if (group == 0) {
      device::named_barrier<1>(128);
    } else {
      device::named_barrier<2>(128);
    }
  }

  struct State {
    float output[Dv / 2];
    float maximum[2], total[2];
    int position[2];  // of this thread's two queries
  };

  __device__ __forceinline__ void multiply_keys(float (&score)[kScores], uint64_t q, int stage)
      const {
    const uint64_t keys = device::operand_descriptor(s.keys[stage][0]);
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      const auto step = static_cast<uint64_t>(k / 4 * (kPanelBytes / 16) + k % 4 * 2);
      device::mma_bf16(score, q + step, keys + step, k > 0);
    }
  }

  __device__ __forceinline__ void multiply_values(
      State& state, const uint32_t (&weight)[kKeys / 16][4], int stage
  ) const {
    const uint64_t values = device::transposed_descriptor(s.values[stage][0], kPanelBytes);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k)
      device::mma_bf16_registers(state.output, weight[k], values + static_cast<uint64_t>(128 * k));
  }

  // score becomes weights exp2(score - maximum); `kept`: what older sums count for.
  template <bool Masked>
  __device__ __forceinline__ void soften(
      float (&score)[kScores], State& state, float (&kept)[2], int first_key
  ) const {
    if constexpr (Masked) {
      const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        const int key = first_key + i / 4 * 8 + 2 * t + i % 2;
        const int position = state.position[i / 2 % 2];
        const bool seen = key <= position && (a.window == 0 || key > position - a.window);
        if (!seen) score[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float raised = state.maximum[h];
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i)
        raised = fmaxf(raised, fmaxf(score[4 * i + 2 * h], score[4 * i + 2 * h + 1]));
      raised = fmaxf(raised, __shfl_xor_sync(device::kFullWarp, raised, 1));
      raised = fmaxf(raised, __shfl_xor_sync(device::kFullWarp, raised, 2));
      const float base = raised == -INFINITY ? 0.0f : raised * a.scale;
      kept[h] = device::exp2_approx(state.maximum[h] * a.scale - base);
      state.maximum[h] = raised;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& v = score[4 * i + 2 * h + j];
          v = device::exp2_approx(fmaf(v, a.scale, -base));
          sum += v;
        }
      }
      state.total[h] = state.total[h] * kept[h] + sum;
    }
  }

  static __device__ __forceinline__ void pack(
      const float (&score)[kScores], uint32_t (&weight)[kKeys / 16][4]
  ) {
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        weight[k][i] = device::pack_bf16(score[8 * k + 2 * i], score[8 * k + 2 * i + 1]);
    }
  }

  static __device__ __forceinline__ void release(Barrier& empty) {
    if (threadIdx.x % 32 == 0) empty.arrive();
  }

  // One block further down: its scores, and the output of the block before.
  template <bool Masked>
  __device__ __forceinline__ void step(
      State& state,
      uint32_t (&weight)[kKeys / 16][4],
      uint64_t q,
      int block,
      Ring<kStages>& ring,
      Ring<kStages>& before
  ) const {
    float score[kScores], kept[2];
    s.keys_full[ring.stage].wait(ring.full_parity());
    s.values_full[before.stage].wait(before.full_parity());  // asked for before these keys
    device::pin(state.output);
    device::wgmma_fence();
    multiply_keys(score, q, ring.stage);
    device::wgmma_commit();
    multiply_values(state, weight, before.stage);
    device::wgmma_commit();
    device::wgmma_wait<1>();
    device::pin(score);
    release(s.keys_empty[ring.stage]);
    soften<Masked>(score, state, kept, block * kKeys);
    device::wgmma_wait<0>();
    device::pin(state.output);
    release(s.values_empty[before.stage]);
#pragma unroll
    for (int i = 0; i < Dv / 2; ++i) state.output[i] *= kept[i / 2 % 2];
    pack(score, weight);
    ring.advance();
    before.advance();
  }

  __device__ void consume(int group) const {
    State state;
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int first = group * 64 + thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      state.maximum[h] = -INFINITY;
      state.total[h] = 0;
      const int token = a.causal ? token_of(min(first + 8 * h, tile.queries - 1)) : 0;
      state.position[h] = tile.first_position + token;
    }
#pragma unroll
    for (int i = 0; i < Dv / 2; ++i) state.output[i] = 0;
    if (tile.blocks > 0) attend(state, group);
    finish(state, first);
  }

  __device__ __forceinline__ void attend(State& state, int group) const {
    load_queries(group);
    const uint64_t q = device::operand_descriptor(s.q[0] + group * 64 * 128);
    uint32_t weight[kKeys / 16][4];
    Ring<kStages> ring, before;
    const int last = tile.first_block + tile.blocks - 1;
    first_block(state, weight, q, last, ring);
    // Blocks that end beyond the first query's position are cut by the diagonal; those that begin
    // before the last one's window by that.
    const int diagonal = max(min((tile.first_position + 1) / kKeys, last), tile.first_block);
    const int end = tile.first_position + token_of(tile.queries - 1);
    const int edge = a.window == 0
                         ? tile.first_block
                         : min(max((end - a.window + kKeys) / kKeys, tile.first_block), diagonal);
    int block = last - 1;
    for (; block >= diagonal; --block) step<true>(state, weight, q, block, ring, before);
    for (; block >= edge; --block) step<false>(state, weight, q, block, ring, before);
    for (; block >= tile.first_block; --block) step<true>(state, weight, q, block, ring, before);
    s.values_full[before.stage].wait(before.full_parity());
    device::pin(state.output);
    device::wgmma_fence();
    multiply_values(state, weight, before.stage);
    device::wgmma_commit();
    device::wgmma_wait<0>();
    device::pin(state.output);
  }

  __device__ __forceinline__ void first_block(
      State& state, uint32_t (&weight)[kKeys / 16][4], uint64_t q, int block, Ring<kStages>& ring
  ) const {
    float score[kScores], kept[2];
    s.keys_full[ring.stage].wait(ring.full_parity());
    device::wgmma_fence();
    multiply_keys(score, q, ring.stage);
    device::wgmma_commit();
    device::wgmma_wait<0>();
    device::pin(score);
    release(s.keys_empty[ring.stage]);
    soften<true>(score, state, kept, block * kKeys);
    pack(score, weight);
    ring.advance();
  }

  __device__ __forceinline__ void finish(State& state, int first) const {
    const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float total = state.total[h];
      total += __shfl_xor_sync(device::kFullWarp, total, 1);
      total += __shfl_xor_sync(device::kFullWarp, total, 2);
      const int r = first + 8 * h;
      if (r >= tile.queries) continue;
      const int query_head = head * a.group + (tile.first_query + r) % a.group;
      if (a.sinks != nullptr)
        total += device::exp2_approx(a.sinks[query_head] * kLog2e - state.maximum[h] * a.scale);
      const float inverse = total > 0 ? 1 / total : 0.0f;
      const int64_t token = tile.first_token + token_of(r);
      if (a.lse != nullptr && t == 0) {
        const float log2_sum = state.maximum[h] * a.scale + log2f(total);
        a.lse[token * a.lse_stride + query_head] = total > 0 ? log2_sum / kLog2e : -INFINITY;
      }
      __nv_bfloat16* y = a.y + token * a.y_stride + int64_t{query_head} * Dv + 2 * t;
#pragma unroll
      for (int j = 0; j < Dv / 8; ++j) {
        const float* v = state.output + 4 * j + 2 * h;
        *reinterpret_cast<uint32_t*>(y + 8 * j) = device::pack_bf16(v[0] * inverse, v[1] * inverse);
      }
    }
  }
};

template <int D, int Dv>
__global__ void __launch_bounds__(kConsumers + 128, 1) attend(
    const Arguments a,
    const __grid_constant__ device::TensorMap keys,
    const __grid_constant__ device::TensorMap values
) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<D, Dv>*>(memory);
  if (threadIdx.x == 0) {
    device::prefetch_map(keys);
    device::prefetch_map(values);
    for (int i = 0; i < kStages; ++i) {
      s.keys_full[i].init(1);
      s.values_full[i].init(1);
      s.keys_empty[i].init(kConsumers / 32);
      s.values_empty[i].init(kConsumers / 32);
    }
    device::fence_barrier_init();
  }
  device::launch_successor();
  device::wait_for_predecessor();
  __syncthreads();
  const Tile tile = find_tile(a);
  if (tile.row < 0) return;
  const Prefill<D, Dv> work{a, s, tile, static_cast<int>(blockIdx.y)};
  if (threadIdx.x >= kConsumers) {
    device::release_registers<24>();
    if (threadIdx.x < kConsumers + 32) work.produce(keys, values);
  } else {
    device::take_registers<240>();
    work.consume(static_cast<int>(threadIdx.x) / 128);
  }
}

cuda::TensorMap page_map(const Tensor& cache) {
  const int64_t heads = cache.dim(1), page = cache.dim(2), D = cache.dim(3);
  return cuda::make_tensor_map({
      .data = cache.data,
      .dtype = DType::bf16,
      .rank = 4,
      .dims =
          {static_cast<uint64_t>(D),
           static_cast<uint64_t>(page),
           static_cast<uint64_t>(heads),
           static_cast<uint64_t>(cache.dim(0))},
      .stride_bytes =
          {static_cast<uint64_t>(2 * cache.stride(2)),
           static_cast<uint64_t>(2 * cache.stride(1)),
           static_cast<uint64_t>(2 * cache.stride(0))},
      .box = {64, static_cast<uint32_t>(page), 1, 1},
      .swizzle = cuda::Swizzle::bytes128,
  });
}

template <int D, int Dv>
void run(Exec& exec, const PagedAttention& args) {
  const Arguments a{
      .rows = attention::rows_of(args.rows),
      .q = static_cast<const __nv_bfloat16*>(args.q.data),
      .sinks = args.sinks.defined() ? args.sinks.as<float>() : nullptr,
      .y = static_cast<__nv_bfloat16*>(args.y.data),
      .lse = args.lse.defined() ? args.lse.as<float>() : nullptr,
      .q_stride = args.q.stride(0),
      .y_stride = args.y.stride(0),
      .lse_stride = args.lse.defined() ? args.lse.stride(0) : 0,
      .group = static_cast<int>(args.q.dim(1) / args.keys.dim(1)),
      .page = static_cast<int>(args.keys.dim(2)),
      .window = static_cast<int>(args.window),
      .causal = args.causal,
      .scale = args.scale * kLog2e,
  };
  // Each row's last tile may be short; no row has more tokens than max_count.
  const int64_t T = args.q.dim(0), B = a.rows.count;
  const int64_t most = T * a.group / kQueries + B;
  const int64_t by_rows = B * ((args.max_count * a.group + kQueries - 1) / kQueries);
  const dim3 grid(
      static_cast<unsigned>(std::min(most, by_rows)), static_cast<unsigned>(args.keys.dim(1))
  );
  cuda::launch(
      exec,
      "mha_prefill",
      {.grid = grid,
       .threads = kConsumers + 128,
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<D, Dv>))},
      attend<D, Dv>,
      a,
      page_map(args.keys),
      page_map(args.values)
  );
}

bool aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) % 8 == 0;
}

}  // namespace

bool mha_prefill_takes_sm90(const Exec&, const PagedAttention& args) {
  const int64_t D = args.q.dim(2), Dv = args.values.dim(3), page = args.keys.dim(2);
  const bool dims = (D == Dv && (D == 64 || D == 128)) || (D == 192 && Dv == 128);
  return dims && (args.causal || args.window == 0) && args.q.dtype == DType::bf16 &&
         args.keys.dtype == DType::bf16 && page % 8 == 0 && kKeys % page == 0 &&
         args.keys.dim(1) < 65536 && aligned(args.q) && aligned(args.y) && aligned(args.keys) &&
         aligned(args.values);
}

void mha_prefill_sm90(Exec& exec, const PagedAttention& args) {
  if (args.q.dim(2) == 64) return run<64, 64>(exec, args);
  args.q.dim(2) == 128 ? run<128, 128>(exec, args) : run<192, 128>(exec, args);
}

}  // namespace fathom::ops
