// gqa_decode: one warp's work, on tensor cores (mma.sync, BF16): a run of keys for all query heads
// of a group. Of every block of 64 positions a warp takes 16, through a ring of its own that
// cp.async fills, so that no barrier stands in the loop:
//   S = Q K^T (16 heads x 16 positions), online softmax, O += P V
#pragma once

#include <cuda_bf16.h>

#include "fathom/ops/attention/gqa_split.cuh"
#include "fathom/ops/attention/paged_attention.h"
#include "fathom/ops/device/async_copy.cuh"
#include "fathom/ops/device/matrix_load.cuh"
#include "fathom/ops/device/mma_sync.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/tma.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops::gqa {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kOwn = kBlock / kWarps;  // positions of a warp in a block
constexpr int kHeads = 16;             // rows of the MMA: query heads of a group, at most
constexpr float kLog2e = 1.44269504f;

struct Arguments {
  attention::Rows rows;
  const __nv_bfloat16* q;
  const __nv_bfloat16* keys;
  const __nv_bfloat16* values;
  const float* sinks;  // null: none
  __nv_bfloat16* y;
  int64_t q_stride, y_stride, page_stride;
  int key_heads, group, page, window;
  float scale;  // with log2 e
};

inline Arguments arguments_of(const PagedAttention& args) {
  return {
      .rows = attention::rows_of(args.rows),
      .q = static_cast<const __nv_bfloat16*>(args.q.data),
      .keys = static_cast<const __nv_bfloat16*>(args.keys.data),
      .values = static_cast<const __nv_bfloat16*>(args.values.data),
      .sinks = args.sinks.defined() ? args.sinks.as<float>() : nullptr,
      .y = static_cast<__nv_bfloat16*>(args.y.data),
      .q_stride = args.q.stride(0),
      .y_stride = args.y.stride(0),
      .page_stride = args.keys.stride(0),
      .key_heads = static_cast<int>(args.keys.dim(1)),
      .group = static_cast<int>(args.q.dim(1) / args.keys.dim(1)),
      .page = static_cast<int>(args.keys.dim(2)),
      .window = static_cast<int>(args.window),
      .scale = args.scale * kLog2e,
  };
}

// What the kernels on WarpDecode take.
inline bool takes(const PagedAttention& args) {
  const auto aligned = [](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) % 8 == 0;
  };
  const int64_t D = args.q.dim(2);
  return args.causal && !args.lse.defined() && (D == 64 || D == 128) && args.values.dim(3) == D &&
         args.q.dtype == DType::bf16 && args.keys.dtype == DType::bf16 &&
         args.q.dim(1) / args.keys.dim(1) <= kHeads && aligned(args.q) && aligned(args.keys) &&
         aligned(args.values) && args.values.stride(0) == args.keys.stride(0);
}

// Keys of one row and key head.
struct Span {
  int token, head;
  int page_begin;   // of the row
  int seen;         // the first position that the query sees
  int first, last;  // positions [first, last); none where first >= last
};

template <int D>
struct WarpMemory {
  static constexpr int kRow = D * 2;               // bytes
  static constexpr int kStages = D == 64 ? 6 : 3;  // 24 KB either way
  union {
    uint8_t ring[kStages][2][kOwn * kRow];  // keys, values
    float sums[kHeads][D + 4];              // unscaled, when all is read
  };
  float maximum[kHeads], total[kHeads];
};

// Where a position of a row and head lies, in elements.
__device__ __forceinline__ int64_t
key_offset(const Arguments& a, int page_begin, int head, int position, int D) {
  const int64_t page = a.rows.pages[page_begin + position / a.page];
  return page * a.page_stride + (int64_t{head} * a.page + position % a.page) * D;
}

// The span's first blocks on their way into the L2, by the CTA. A hint and no read, so that it may
// stand before the wait: what the predecessor still writes of them it writes there.
template <int D>
__device__ __forceinline__ void prefetch_span(const Arguments& a, const Span& span) {
  constexpr int kAhead = WarpMemory<D>::kStages * kBlock;
  const int last = min(span.first + kAhead, span.last);
  for (int i = span.first + static_cast<int>(threadIdx.x); i < last; i += kThreads) {
    const int64_t from = key_offset(a, span.page_begin, span.head, i, D);
    device::prefetch_l2(a.keys + from, D * 2);
    device::prefetch_l2(a.values + from, D * 2);
  }
}

template <int D>
struct WarpDecode {
  using Memory = WarpMemory<D>;
  static constexpr int kStages = Memory::kStages;
  static constexpr int kChunks = D / 8;  // of 16 bytes in a row
  static constexpr int kSteps = D / 16;

  const Arguments& a;
  Memory& m;
  int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  float sum[D / 8][4], maximum[2], total[2];

  static __device__ int place(int row, int chunk) {
    return row * Memory::kRow + (chunk ^ (row & 7)) * 16;
  }

  // This warp's 16 positions of the block at `first` on their way into a slot; beyond `last` the
  // last one is read again.
  __device__ void load(const Span& span, int first, int stage) {
    const int own = min(first + warp * kOwn + lane % kOwn, span.last - 1);
    const auto mine = static_cast<uint32_t>(key_offset(a, span.page_begin, span.head, own, D) / 8);
    uint8_t* keys = m.ring[stage][0];
    uint8_t* values = m.ring[stage][1];
#pragma unroll
    for (int i = 0; i < kOwn * kChunks / 32; ++i) {
      const int row = (i * 32 + lane) / kChunks, chunk = lane % kChunks;
      const int64_t from = int64_t{__shfl_sync(0xffffffffu, mine, row)} * 8 + chunk * 8;
      device::copy_16_async(keys + place(row, chunk), a.keys + from);
      device::copy_16_async(values + place(row, chunk), a.values + from);
    }
    device::commit_copies();
  }

  __device__ void load_query(const Span& span, uint32_t (&query)[kSteps][4]) const {
    const int g = lane / 4, t = lane % 4;
    const __nv_bfloat16* q = a.q + span.token * a.q_stride + int64_t{span.head} * a.group * D;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int head = g + i % 2 * 8, d = k * 16 + i / 2 * 8 + t * 2;
        query[k][i] = head < a.group ? *reinterpret_cast<const uint32_t*>(q + head * D + d) : 0u;
      }
    }
  }

  // Scores of 16 positions: [2 blocks of 8][fragment].
  __device__ void score(const uint8_t* keys, const uint32_t (&query)[kSteps][4], float (&out)[2][4])
      const {
    const uint32_t base = device::shared_address(keys);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[n][i] = 0;
#pragma unroll
      for (int k = 0; k < kSteps; k += 2) {
        uint32_t b[4];
        device::load_blocks(
            base + static_cast<uint32_t>(place(n * 8 + lane % 8, k * 2 + lane / 8)), b
        );
        device::mma_bf16_sync(
            out[n], query[k][0], query[k][1], query[k][2], query[k][3], b[0], b[1]
        );
        device::mma_bf16_sync(
            out[n], query[k + 1][0], query[k + 1][1], query[k + 1][2], query[k + 1][3], b[2], b[3]
        );
      }
    }
  }

  __device__ void weigh(const uint8_t* values, const float (&weight)[2][4]) {
    const uint32_t base = device::shared_address(values);
    const uint32_t a0 = device::pack_bf16(weight[0][0], weight[0][1]);
    const uint32_t a1 = device::pack_bf16(weight[0][2], weight[0][3]);
    const uint32_t a2 = device::pack_bf16(weight[1][0], weight[1][1]);
    const uint32_t a3 = device::pack_bf16(weight[1][2], weight[1][3]);
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t b[4];
      device::load_blocks_transposed(
          base + static_cast<uint32_t>(place(lane % 16, n + lane / 16)), b
      );
      device::mma_bf16_sync(sum[n], a0, a1, a2, a3, b[0], b[1]);
      device::mma_bf16_sync(sum[n + 1], a0, a1, a2, a3, b[2], b[3]);
    }
  }

  // All keys of the span; blocks from its first position on.
  __device__ void attend(const Span& span) {
    uint32_t query[kSteps][4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      maximum[h] = -INFINITY;
      total[h] = 0;
    }
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[n][i] = 0;
    }
    const int blocks = (span.last - span.first + kBlock - 1) / kBlock;
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) load_ahead(span, i, blocks);
    load_query(span, query);
    for (int i = 0; i < blocks; ++i) {
      load_ahead(span, i + kStages - 1, blocks);
      device::wait_copies<kStages - 1>();
      __syncwarp();
      float weight[2][4];
      score(m.ring[i % kStages][0], query, weight);
      soften(weight, span.first + i * kBlock + warp * kOwn, span.seen, span.last);
      weigh(m.ring[i % kStages][1], weight);
      __syncwarp();
    }
    device::wait_copies<0>();
    __syncwarp();
  }

  __device__ __forceinline__ void load_ahead(const Span& span, int block, int blocks) {
    if (block < blocks) {
      load(span, span.first + block * kBlock, block % kStages);
    } else {
      device::commit_copies();
    }
  }

  // Scores become weights exp2(score - maximum); the sums so far follow a raised maximum.
  __device__ void soften(float (&weight)[2][4], int first, int seen, int last) {
    float raised[2] = {maximum[0], maximum[1]};
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int position = first + n * 8 + lane % 4 * 2 + i % 2;
        const bool visible = position >= seen && position < last;
        weight[n][i] = visible ? weight[n][i] * a.scale : -INFINITY;
        raised[i / 2] = fmaxf(raised[i / 2], weight[n][i]);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      raised[h] = fmaxf(raised[h], __shfl_xor_sync(0xffffffffu, raised[h], 1));
      raised[h] = fmaxf(raised[h], __shfl_xor_sync(0xffffffffu, raised[h], 2));
    }
    if (__any_sync(0xffffffffu, raised[0] > maximum[0] || raised[1] > maximum[1])) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float kept =
            maximum[h] == -INFINITY ? 0.0f : device::exp2_approx(maximum[h] - raised[h]);
        maximum[h] = raised[h];
        total[h] *= kept;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          sum[n][2 * h] *= kept;
          sum[n][2 * h + 1] *= kept;
        }
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float base = maximum[i / 2] == -INFINITY ? 0.0f : maximum[i / 2];
        weight[n][i] = device::exp2_approx(weight[n][i] - base);
        total[i / 2] += weight[n][i];
      }
    }
  }

  // The sums, maxima and totals go where the ring was.
  __device__ void leave() {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[h] += __shfl_xor_sync(0xffffffffu, total[h], 1);
      total[h] += __shfl_xor_sync(0xffffffffu, total[h], 2);
      if (t == 0) {
        m.maximum[g + 8 * h] = maximum[h];
        m.total[g + 8 * h] = total[h];
      }
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
        *reinterpret_cast<float2*>(&m.sums[g + 8 * h][n * 8 + 2 * t]) = {
            sum[n][2 * h], sum[n][2 * h + 1]};
    }
  }
};

}  // namespace fathom::ops::gqa
