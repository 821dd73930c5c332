// mha_prefill, row sm90: a warpgroup that computes.
//
// Of each block of 128 keys, from the last that the tile sees down to the first, for 64 queries:
//   S = Q K^T of this block and O += P V of the block before, both under way at once;
//   softmax of S while O is computed (FlashAttention-3, section 3.2); where registers allow, its
//   weights are packed there as well, into others than those that O's product reads.
// The warpgroups take turns at starting products, so that one computes while the other is in its
// softmax (section 3.1). Only blocks at the diagonal, at the row's end and at the window's edge are
// masked. The next tile's queries are fetched while the last product of a tile runs.
#pragma once

#include "fathom/ops/attention/prefill_ring_sm90.cuh"
#include "fathom/ops/attention/prefill_softmax_sm90.cuh"
#include "fathom/ops/device/async_copy.cuh"
#include "fathom/ops/device/mma_registers_sm90.cuh"

namespace fathom::ops::prefill {

template <class Shape>
struct Consumer {
  static constexpr int D = Shape::kD, Dv = Shape::kDv;

  const Arguments& a;
  SharedStorage<Shape>& s;
  const TensorMap& q;
  const TensorMap& y;
  int group = uniform(static_cast<int>(threadIdx.x) / 128);  // warpgroup
  Ring<Shape::kSlots.keys> ring{};                           // of keys
  Ring<Shape::kSlots.values> before{};                       // of the values one block behind
  Ring<kHanded> handed{};
  uint32_t q_pass = 0;

  // So that the compiler knows that all lanes hold the same: loops and descriptors need it.
  static __device__ __forceinline__ int uniform(int v) {
    return __shfl_sync(device::kFullWarp, v, 0);
  }

  __device__ void run() {
    await_tile(handed);
    device::wait_for_predecessor();
    if (tile().queries > 0) fetch_queries(tile());
    if (group == Shape::kGroups - 1) pass_turn();  // the first turn is warpgroup 0's
    while (uniform(tile().queries) > 0) {
      State<Dv> state;
      state.clear();
      if (uniform(tile().blocks) > 0) {
        attend(state);
      } else {
        await_queries();
        fetch_next();
      }
      finish(state);
      __syncwarp();
      release(s.tile_empty[handed.stage]);
      handed.advance();
    }
    if (own_thread() == 0) device::wait_stores_read<0>();
  }

  // Tiles stay in shared memory, as registers are short.
  __device__ __forceinline__ const Tile& tile() const { return s.tiles[handed.stage]; }

  __device__ __forceinline__ void await_tile(const Ring<kHanded>& at) const {
    s.tile_full[at.stage].wait(at.full_parity());
  }

  // The next tile's queries on their way, once the warpgroup has read this one's.
  __device__ __forceinline__ void fetch_next() const {
    Ring<kHanded> next = handed;
    next.advance();
    await_tile(next);
    meet_group();
    const Tile& tile = s.tiles[next.stage];
    if (tile.queries > 0) fetch_queries(tile);
  }

  static __device__ __forceinline__ void release(Barrier& empty) {
    if (threadIdx.x % 32 == 0) empty.arrive();
  }

  // The warps of this warpgroup.
  __device__ __forceinline__ void meet_group() const { device::named_barrier(1 + group, 128); }

  // Turns go round the warpgroups.
  __device__ __forceinline__ void await_turn() const {
    if constexpr (Shape::kTurns) device::named_barrier(1 + Shape::kGroups + group, 256);
  }
  __device__ __forceinline__ void pass_turn() const {
    const int next = group + 1 == Shape::kGroups ? 0 : group + 1;
    if constexpr (Shape::kTurns) device::give_turn(1 + Shape::kGroups + next, 256);
  }

  // Of the warpgroup. Read anew: what follows from it is needed once a tile and would else take
  // registers, or places in memory, all along.
  static __device__ __forceinline__ int own_thread() {
    uint32_t thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return static_cast<int>(thread % 128);
  }

  // Token (from the tile's first on) and query head (of the key head's) of a tile's query.
  struct Query {
    int token, head;
  };
  __device__ __forceinline__ Query query_of(const Tile& of, int r) const {
    const int x = of.lead + r;
    const auto token = static_cast<int>(static_cast<uint32_t>(x) * a.inverse_group >> kInverseBits);
    return {token, x - token * a.group};
  }

  // The warpgroup's 64 queries on their way, swizzled as WGMMA reads them.
  __device__ __forceinline__ void fetch_queries(const Tile& next) const {
    if (!a.boxes) return fetch_rows(next);
    if (own_thread() != 0) return;
    Barrier& full = s.q_full[group];
    full.arrive_expect(D / 64 * device::kBoxBytes);
    const Query first = query_of(next, group * 64);
#pragma unroll
    for (int i = 0; i < D / 64; ++i)
      device::box_load_3d(
          s.q[i] + group * device::kBoxBytes,
          q,
          i * 64,
          next.head * a.group,
          next.first_token + first.token,
          full,
          device::kEvictNormal
      );
  }

  __device__ __forceinline__ void await_queries() {
    if (a.boxes) {
      s.q_full[group].wait(q_pass);
      q_pass ^= 1;
    } else {
      device::wait_copies<0>();
      device::fence_shared_for_async();
      meet_group();
    }
  }

  // Query by query; beyond the tile's end zeros. A warp brings 16; lane i knows where the i-th
  // lies.
  __device__ __forceinline__ void fetch_rows(const Tile& next) const {
    constexpr int kChunks = D / 8, kRows = 16;
    const int thread = own_thread(), lane = thread % 32, first = group * 64 + thread / 32 * kRows;
    const Query query = query_of(next, first + lane % kRows);
    const __nv_bfloat16* row = a.q + (next.first_token + query.token) * a.q_stride +
                               int64_t{next.head * a.group + query.head} * D;
    const auto mine = reinterpret_cast<uint64_t>(row);
#pragma unroll
    for (int i = 0; i < kRows * kChunks / 32; ++i) {
      const int own = (i * 32 + lane) / kChunks, chunk = (i * 32 + lane) % kChunks, r = first + own;
      const uint64_t from = __shfl_sync(device::kFullWarp, mine, own);
      uint8_t* to = s.q[chunk / 8] + r * 128 + ((chunk % 8) ^ (r & 7)) * 16;
      if (r < next.queries) {
        device::copy_16_async(to, reinterpret_cast<const uint4*>(from) + chunk);
      } else {
        *reinterpret_cast<uint4*>(to) = uint4{};
      }
    }
    device::commit_copies();
  }

  // Of a block's keys, or of its first half.
  template <int N>
  __device__ __forceinline__ void multiply_keys(float (&score)[N]) const {
    const uint64_t queries = device::operand_descriptor(s.q[0] + group * device::kBoxBytes);
    const uint64_t keys = device::operand_descriptor(s.keys[ring.stage][0]);
    constexpr uint32_t kQueryPanel = Shape::kQueries * 128 / 16, kKeyPanel = kPanelBytes / 16;
#pragma unroll
    for (uint32_t k = 0; k < D / 16; ++k) {
      const uint32_t panel = k / 4, step = k % 4 * 2;
      device::mma_bf16(
          score,
          device::advanced(queries, panel * kQueryPanel + step),
          device::advanced(keys, panel * kKeyPanel + step),
          k > 0
      );
    }
    device::wgmma_commit();
  }

  __device__ __forceinline__ void multiply_values(State<Dv>& state, const Weights& weight) const {
    const uint64_t values = device::transposed_descriptor(s.values[before.stage][0], kPanelBytes);
#pragma unroll
    for (uint32_t k = 0; k < kKeys / 16; ++k)
      device::mma_bf16_registers(state.output, weight[k], device::advanced(values, 128 * k));
    device::wgmma_commit();
  }

  // The tile's first block has no other before it. Half: no query sees its second half.
  template <bool Half>
  __device__ __forceinline__ void first_block(State<Dv>& state, Weights& weight, int block) {
    float score[Half ? kScores / 2 : kScores], kept[2];
    s.keys_full[ring.stage].wait(ring.full_parity());
    device::wgmma_fence();
    multiply_keys(score);
    device::wgmma_wait<0>();
    device::pin(score);
    release(s.keys_empty[ring.stage]);
    ring.advance();
    state.mask(score, block * kKeys, a.window);
    state.soften(score, a.scale, kept);
    pack_weights(score, weight);
  }

  // One block further down: its scores, and the output of the block before.
  template <bool Masked>
  __device__ __forceinline__ void step(
      State<Dv>& state, const Weights& older, Weights& weight, int block
  ) {
    float score[kScores], kept[2];
    await_block();
    await_turn();
    device::pin(state.output);
    device::wgmma_fence();
    multiply_keys(score);
    multiply_values(state, older);
    pass_turn();
    device::wgmma_wait<1>();
    device::pin(score);
    release(s.keys_empty[ring.stage]);
    ring.advance();
    if constexpr (Masked) state.mask(score, block * kKeys, a.window);
    const bool raised = state.soften(score, a.scale, kept);
    if constexpr (Shape::kWeightsTwice) pack_weights(score, weight);
    device::settle(state.total[0] + state.total[1], &s);
    device::wgmma_wait<0>();
    device::pin(state.output);
    release(s.values_empty[before.stage]);
    before.advance();
    if (raised) state.fade(kept);
    if constexpr (!Shape::kWeightsTwice) pack_weights(score, weight);
  }

  // The keys of this block and the values of the one before, which were asked for earlier.
  __device__ __forceinline__ void await_block() const {
    Barrier &keys = s.keys_full[ring.stage], &values = s.values_full[before.stage];
    if (keys.passed(ring.full_parity()) & values.passed(before.full_parity())) return;
    keys.wait(ring.full_parity());
    values.wait(before.full_parity());
  }

  __device__ __forceinline__ void last_product(State<Dv>& state, const Weights& weight) const {
    s.values_full[before.stage].wait(before.full_parity());
    device::pin(state.output);
    device::wgmma_fence();
    multiply_values(state, weight);
  }

  // Of the thread's two in the tile; the other is 8 further.
  __device__ __forceinline__ int first_query() const {
    const int thread = own_thread();
    return group * 64 + thread / 32 * 16 + thread % 32 / 4;
  }

  // Of the warpgroup.
  __device__ __forceinline__ int last_query(const Tile& own) const {
    return min(group * 64 + 63, own.queries - 1);
  }

  // All blocks of the tile.
  __device__ __forceinline__ void attend(State<Dv>& state) {
    const Tile& own = tile();
    const int first = first_query();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int token = a.causal ? query_of(own, min(first + 8 * h, own.queries - 1)).token : 0;
      state.position[h] = own.first_position + token;
    }
    await_queries();
    // Blocks that end beyond the first query's position are cut by the diagonal; those that begin
    // before the last one's window by that.
    const int diagonal = uniform((own.first_position + 1) / kKeys);
    const int end = own.first_position + query_of(own, own.queries - 1).token;
    const int edge = uniform(a.window == 0 ? 0 : (end - a.window + kKeys) / kKeys);
    const int last = uniform(own.first_block);
    int block = last + uniform(own.blocks) - 1;
    const auto one_step = [&](const Weights& older, Weights& weight) {
      if (block >= diagonal || block < edge) {
        step<true>(state, older, weight, block);
      } else {
        step<false>(state, older, weight, block);
      }
    };
    Weights even, spare;
    Weights& odd = Shape::kWeightsTwice ? spare : even;
    const int seen = own.first_position + (a.causal ? query_of(own, last_query(own)).token : 0);
    // Of 192 dimensions the products saved are fewer than what more code costs.
    if (D <= 128 && uniform(seen) - block * kKeys < kKeys / 2) {
      first_block<true>(state, even, block);
    } else {
      first_block<false>(state, even, block);
    }
    for (;;) {
      if (--block < last) {
        last_product(state, even);
        break;
      }
      one_step(even, odd);
      if constexpr (!Shape::kWeightsTwice) continue;
      if (--block < last) {
        last_product(state, odd);
        break;
      }
      one_step(odd, even);
    }
    fetch_next();
    device::wgmma_wait<0>();
    device::pin(state.output);
    release(s.values_empty[before.stage]);
    before.advance();
  }

  __device__ __forceinline__ void finish(State<Dv>& state) const {
    const Tile& own = tile();
    const int first = first_query();
    float inverse[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float total = state.total[h];
      total += __shfl_xor_sync(device::kFullWarp, total, 1);
      total += __shfl_xor_sync(device::kFullWarp, total, 2);
      const Query query = query_of(own, first + 8 * h);
      const int head = own.head * a.group + query.head;
      if (a.sinks != nullptr)
        total += device::exp2_approx(a.sinks[head] * kLog2e - state.maximum[h] * a.scale);
      inverse[h] = total > 0 ? __fdividef(1, total) : 0.0f;
      if (a.lse != nullptr && first + 8 * h < own.queries && threadIdx.x % 4 == 0) {
        const float log2_sum = state.maximum[h] * a.scale + __log2f(total);
        a.lse[(own.first_token + query.token) * a.lse_stride + head] =
            total > 0 ? log2_sum * (1 / kLog2e) : -INFINITY;
      }
    }
#pragma unroll
    for (int i = 0; i < Dv / 2; ++i) state.output[i] *= inverse[i / 2 % 2];
    if (a.boxes && own.queries >= group * 64 + 64) {
      store_boxes(state);
    } else {
      store_rows(state);
    }
  }

  // Through shared memory by the copy engine, beside the next tile's products.
  __device__ __forceinline__ void store_boxes(const State<Dv>& state) const {
    constexpr int kAtOnce = Shape::kSlots.outputs;
    const Tile& own = tile();
    const bool leader = own_thread() == 0;
#pragma unroll
    for (int box = 0; box < Dv / 64; box += kAtOnce) {
      if (leader) device::wait_stores_read<0>();
      meet_group();
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        device::fill_box(s.y[group][i], state.output + 32 * (box + i));
      device::fence_shared_for_async();
      meet_group();
      if (!leader) continue;
      const Query first = query_of(own, group * 64);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        device::box_store_3d(
            y, s.y[group][i], 64 * (box + i), own.head * a.group, own.first_token + first.token
        );
      device::commit_stores();
    }
  }

  __device__ __forceinline__ void store_rows(const State<Dv>& state) const {
    const Tile& own = tile();
    const int first = first_query();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = first + 8 * h;
      const Query query = query_of(own, r);
      __nv_bfloat16* to = a.y + (own.first_token + query.token) * a.y_stride +
                          int64_t{own.head * a.group + query.head} * Dv;
      store_output<Dv>(state.output, h, to, r < own.queries);
    }
  }
};

}  // namespace fathom::ops::prefill
