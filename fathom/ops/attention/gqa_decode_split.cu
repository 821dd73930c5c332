// gqa_decode, row split: tensor cores (mma.sync), BF16, keys and values read once from DRAM for all
// query heads of a group. docs/kernels/gqa_decode.md.
//
// A CTA takes a run of 64-position blocks (gqa_split.cuh). Its four warps take 16 positions of each
// block, through rings of their own that cp.async fills, so that no barrier stands in the loop:
//   S = Q K^T (16 heads x 16 positions), online softmax, O += P V
// and are put together when the segment ends.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/gqa_decode_rows.h"
#include "fathom/ops/attention/gqa_split.cuh"
#include "fathom/ops/device/async_copy.cuh"
#include "fathom/ops/device/matrix_load.cuh"
#include "fathom/ops/device/mma_sync.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops {
namespace {

using gqa::Segment;

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kOwn = gqa::kBlock / kWarps;  // positions of a warp in a block
constexpr int kStages = 3;
constexpr int kHeads = 16;  // rows of the MMA: query heads of a group, at most
constexpr int kResident = 2;
constexpr int kMaxParts = 288;  // CTAs
constexpr int kInFlight = 8;    // loads of a thread under way
constexpr int kEarly = 16;      // parts
constexpr float kLog2e = 1.44269504f;

struct Arguments {
  attention::Rows rows;
  const __nv_bfloat16* q;
  const __nv_bfloat16* keys;
  const __nv_bfloat16* values;
  const float* sinks;  // null: none
  __nv_bfloat16* y;
  float* partial;      // [parts][2]: sums [kHeads][D], then maximum and total [2][kHeads]
  uint32_t* arrivals;  // [rows][key heads], zero
  int64_t q_stride, y_stride, page_stride;
  int key_heads, group, page, window, parts;
  float scale;  // with log2 e
};

template <int D>
struct SharedStorage {
  static constexpr int kRow = D * 2;  // bytes
  union {
    uint8_t ring[kWarps][kStages][2][kOwn * kRow];  // keys, values
    float sums[kWarps][kHeads][D + 4];
    struct {
      float weight[kMaxParts][kHeads];  // the maxima first
      float total[kMaxParts][kHeads];
    } combine;
  };
  float maximum[kWarps][kHeads], total[kWarps][kHeads];
  gqa::Plan plan;
  bool last;
};

template <int D>
struct Decode {
  using Storage = SharedStorage<D>;
  static constexpr int kChunks = D / 8;  // of 16 bytes in a row
  static constexpr int kSteps = D / 16;

  const Arguments& a;
  Storage& s;
  const gqa::Cut& cut;
  int warp, lane;

  static __device__ int place(int row, int chunk) {
    return row * Storage::kRow + (chunk ^ (row & 7)) * 16;
  }

  // This warp's 16 positions of the block at `first` on their way into a slot; beyond `last` the
  // last one is read again.
  __device__ void load(const Segment& segment, int first, int stage) {
    const int own = min(first + warp * kOwn + lane % kOwn, segment.last - 1);
    const int64_t page = a.rows.pages[s.plan.page_begin[segment.row] + own / a.page];
    const auto mine = static_cast<uint32_t>(
        (page * a.page_stride + (int64_t{segment.head} * a.page + own % a.page) * D) / 8
    );
    uint8_t* keys = s.ring[warp][stage][0];
    uint8_t* values = s.ring[warp][stage][1];
#pragma unroll
    for (int i = 0; i < kOwn * kChunks / 32; ++i) {
      const int row = (i * 32 + lane) / kChunks, chunk = lane % kChunks;
      const int64_t from = int64_t{__shfl_sync(0xffffffffu, mine, row)} * 8 + chunk * 8;
      device::copy_16_async(keys + place(row, chunk), a.keys + from);
      device::copy_16_async(values + place(row, chunk), a.values + from);
    }
    device::commit_copies();
  }

  __device__ void load_query(const Segment& segment, uint32_t (&query)[kSteps][4]) const {
    const int token = s.plan.token + segment.row;
    const int g = lane / 4, t = lane % 4;
    const __nv_bfloat16* q = a.q + token * a.q_stride + int64_t{segment.head} * a.group * D;
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

  __device__ void weigh(const uint8_t* values, const float (&weight)[2][4], float (&sum)[D / 8][4])
      const {
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

  __device__ void run(const Segment& segment) {
    uint32_t query[kSteps][4];
    float sum[D / 8][4], maximum[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[n][i] = 0;
    }
    const int seen = cut.first_seen(segment.row);
    const int blocks = (segment.last - segment.first + gqa::kBlock - 1) / gqa::kBlock;
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) {
      if (i < blocks) {
        load(segment, segment.first + i * gqa::kBlock, i);
      } else {
        device::commit_copies();
      }
    }
    load_query(segment, query);
    for (int i = 0; i < blocks; ++i) {
      const int ahead = i + kStages - 1;
      if (ahead < blocks) {
        load(segment, segment.first + ahead * gqa::kBlock, ahead % kStages);
      } else {
        device::commit_copies();
      }
      device::wait_copies<kStages - 1>();
      __syncwarp();
      const uint8_t* keys = s.ring[warp][i % kStages][0];
      float weight[2][4];
      score(keys, query, weight);
      const int first = segment.first + i * gqa::kBlock + warp * kOwn;
      soften(weight, first, seen, segment.last, maximum, total, sum);
      weigh(s.ring[warp][i % kStages][1], weight, sum);
      __syncwarp();
    }
    device::wait_copies<0>();
    finish(segment, maximum, total, sum);
  }

  // Scores become weights exp2(score - maximum); the sums so far follow a raised maximum.
  __device__ void soften(
      float (&weight)[2][4],
      int first,
      int seen,
      int last,
      float (&maximum)[2],
      float (&total)[2],
      float (&sum)[D / 8][4]
  ) const {
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

  // The four warps' sums become one, and the output or this part's share of it.
  __device__ void finish(
      const Segment& segment, float (&maximum)[2], float (&total)[2], float (&sum)[D / 8][4]
  ) {
    const int g = lane / 4, t = lane % 4;
    __syncthreads();  // the rings are free
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[h] += __shfl_xor_sync(0xffffffffu, total[h], 1);
      total[h] += __shfl_xor_sync(0xffffffffu, total[h], 2);
      if (t == 0) {
        s.maximum[warp][g + 8 * h] = maximum[h];
        s.total[warp][g + 8 * h] = total[h];
      }
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        *reinterpret_cast<float2*>(&s.sums[warp][g + 8 * h][n * 8 + 2 * t]) = {
            sum[n][2 * h], sum[n][2 * h + 1]};
      }
    }
    __syncthreads();
    const int part = static_cast<int>(blockIdx.x);
    float* mine = slot(segment, part);
    for (int i = static_cast<int>(threadIdx.x); i < a.group * D; i += kThreads) {
      const int head = i / D, d = i % D;
      float top = -INFINITY;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) top = fmaxf(top, s.maximum[w][head]);
      float all = 0, value = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float share = top == -INFINITY ? 0 : device::exp2_approx(s.maximum[w][head] - top);
        all += share * s.total[w][head];
        value += share * s.sums[w][head][d];
      }
      if (segment.whole) {
        write(segment, head, d, top, all, value);
      } else {
        __stcg(mine + head * D + d, value);
        if (d < 2) __stcg(mine + kHeads * (D + d) + head, d == 0 ? top : all);
      }
    }
    __syncthreads();
    if (!segment.whole) combine(segment);
  }

  __device__ void write(const Segment& segment, int head, int d, float top, float all, float value)
      const {
    const int query_head = segment.head * a.group + head;
    if (a.sinks != nullptr) {
      const float sink = a.sinks[query_head] * kLog2e, base = fmaxf(top, sink);
      const float kept = top == -INFINITY ? 0 : device::exp2_approx(top - base);
      value *= kept;
      all = all * kept + device::exp2_approx(sink - base);
    }
    const int64_t token = s.plan.token + segment.row;
    a.y[token * a.y_stride + int64_t{query_head} * D + d] =
        __float2bfloat16_rn(all > 0 ? value / all : 0);
  }

  __device__ float* slot(const Segment& segment, int part) const {
    const int64_t inside = segment.begin > cut.begin_of(part) ? 1 : 0;
    return a.partial + (int64_t{part} * 2 + inside) * kHeads * (D + 2);
  }

  // The last part to come adds all up.
  __device__ void combine(const Segment& segment) {
    const int first = cut.part_of(segment.begin), last = cut.part_of(segment.end - 1);
    if (threadIdx.x == 0) {
      uint32_t* counter = a.arrivals + segment.row * a.key_heads + segment.head;
      s.last = device::arrive_counter(counter) == static_cast<uint32_t>(last - first);
      if (s.last) *counter = 0;
    }
    __syncthreads();
    if (!s.last) return;
    constexpr int kQuads = D / 4;
    const int thread = static_cast<int>(threadIdx.x), quads = a.group * kQuads;
    // The first parts' sums come while the statistics are weighed.
    float4 early[kEarly];
#pragma unroll
    for (int k = 0; k < kEarly; ++k)
      early[k] = sums_of(segment, min(first + k, last), min(thread, quads - 1));
    weigh_parts(segment, first, last - first + 1);
    for (int i = thread; i < quads; i += kThreads) {
      const int head = i / kQuads;
      float4 value{};
      const auto add = [&](int part, float4 v) {
        const float w = part <= last ? s.combine.weight[part - first][head] : 0.0f;
        value = {
            fmaf(w, v.x, value.x),
            fmaf(w, v.y, value.y),
            fmaf(w, v.z, value.z),
            fmaf(w, v.w, value.w)};
      };
      int part = first;
      if (i == thread) {
#pragma unroll
        for (int k = 0; k < kEarly; ++k) add(first + k, early[k]);
        part += kEarly;
      }
      for (; part <= last; part += kInFlight) {
        float4 v[kInFlight];
#pragma unroll
        for (int k = 0; k < kInFlight; ++k) v[k] = sums_of(segment, min(part + k, last), i);
#pragma unroll
        for (int k = 0; k < kInFlight; ++k) add(part + k, v[k]);
      }
      const int64_t token = s.plan.token + segment.row;
      __nv_bfloat16* y = a.y + token * a.y_stride + int64_t{segment.head} * a.group * D + i * 4;
      *reinterpret_cast<uint2*>(y) = {
          device::pack_bf16(value.x, value.y), device::pack_bf16(value.z, value.w)};
    }
    __syncthreads();
  }

  __device__ float4 sums_of(const Segment& segment, int part, int quad) const {
    return __ldcg(reinterpret_cast<const float4*>(slot(segment, part)) + quad);
  }

  // What each part's sums of each head count for in the output.
  __device__ void weigh_parts(const Segment& segment, int first, int parts) {
    const int thread = static_cast<int>(threadIdx.x);
    for (int i = thread; i < parts * kHeads; i += kThreads) {
      const float* from = slot(segment, first + i / kHeads) + kHeads * D + i % kHeads;
      s.combine.weight[i / kHeads][i % kHeads] = __ldcg(from);
      s.combine.total[i / kHeads][i % kHeads] = __ldcg(from + kHeads);
    }
    __syncthreads();
    constexpr int kShares = kThreads / kHeads;
    const int head = thread / kShares, share = thread % kShares;
    const bool wanted = head < a.group;
    float top = -INFINITY, all = 0;
    for (int i = share; i < parts && wanted; i += kShares)
      top = fmaxf(top, s.combine.weight[i][head]);
    top = device::warp_max<kShares>(top);
    if (a.sinks != nullptr && wanted)
      top = fmaxf(top, a.sinks[segment.head * a.group + head] * kLog2e);
    const float base = top == -INFINITY ? 0.0f : top;
    for (int i = share; i < parts && wanted; i += kShares)
      all += s.combine.total[i][head] * device::exp2_approx(s.combine.weight[i][head] - base);
    all = device::warp_sum<kShares>(all);
    if (a.sinks != nullptr && wanted)
      all += device::exp2_approx(a.sinks[segment.head * a.group + head] * kLog2e - base);
    const float inverse = all > 0 ? 1 / all : 0.0f;
    for (int i = share; i < parts && wanted; i += kShares) {
      float& weight = s.combine.weight[i][head];
      weight = device::exp2_approx(weight - base) * inverse;
    }
    __syncthreads();
  }
};

template <int D>
__global__ void __launch_bounds__(kThreads, kResident) decode(const Arguments a) {
  extern __shared__ __align__(128) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<D>*>(memory);
  device::launch_successor();
  device::wait_for_predecessor();
  gqa::Cut::make(a.rows, a.key_heads, a.window, s.plan);
  const gqa::Cut cut(s.plan, a.rows, a.key_heads, a.window, a.parts);
  Decode<D> work{a, s, cut, static_cast<int>(threadIdx.x) / 32, static_cast<int>(threadIdx.x) % 32};
  cut.for_each_segment(static_cast<int>(blockIdx.x), [&](const Segment& segment) {
    work.run(segment);
    __syncthreads();
  });
}

template <int D>
void run(Exec& exec, const PagedAttention& args) {
  Workspace::Mark mark(*exec.workspace);
  const int parts = std::min(kResident * cuda::multiprocessors(exec.device.index), kMaxParts);
  const Tensor partial =
      exec.workspace->alloc(DType::f32, {int64_t{parts} * 2, kHeads, int64_t{D} + 2});
  const Arguments a{
      .rows = attention::rows_of(args.rows),
      .q = static_cast<const __nv_bfloat16*>(args.q.data),
      .keys = static_cast<const __nv_bfloat16*>(args.keys.data),
      .values = static_cast<const __nv_bfloat16*>(args.values.data),
      .sinks = args.sinks.defined() ? args.sinks.as<float>() : nullptr,
      .y = static_cast<__nv_bfloat16*>(args.y.data),
      .partial = partial.as<float>(),
      .arrivals = exec.semaphores,
      .q_stride = args.q.stride(0),
      .y_stride = args.y.stride(0),
      .page_stride = args.keys.stride(0),
      .key_heads = static_cast<int>(args.keys.dim(1)),
      .group = static_cast<int>(args.q.dim(1) / args.keys.dim(1)),
      .page = static_cast<int>(args.keys.dim(2)),
      .window = static_cast<int>(args.window),
      .parts = parts,
      .scale = args.scale * kLog2e,
  };
  cuda::launch(
      exec,
      "gqa_decode",
      {.grid = dim3(static_cast<unsigned>(parts)),
       .threads = kThreads,
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<D>))},
      decode<D>,
      a
  );
}

bool aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) % 8 == 0;
}

}  // namespace

bool gqa_decode_takes_split(const Exec&, const PagedAttention& args) {
  const int64_t D = args.q.dim(2), Hkv = args.keys.dim(1), B = args.rows.kv_len.dim(0);
  return args.causal && !args.lse.defined() && (D == 64 || D == 128) && args.values.dim(3) == D &&
         args.q.dtype == DType::bf16 && args.keys.dtype == DType::bf16 &&
         args.q.dim(1) / Hkv <= kHeads && B <= gqa::kMaxRows && B * Hkv <= Exec::kSemaphoreWords &&
         aligned(args.q) && aligned(args.keys) && aligned(args.values) &&
         args.values.stride(0) == args.keys.stride(0);
}

void gqa_decode_split(Exec& exec, const PagedAttention& args) {
  args.q.dim(2) == 64 ? run<64>(exec, args) : run<128>(exec, args);
}

}  // namespace fathom::ops
