// gqa_decode, row split: tensor cores (mma.sync), BF16, keys and values read once from DRAM for all
// query heads of a group. docs/kernels/gqa_decode.md.
//
// A CTA takes a run of 64-position blocks (gqa_split.cuh). What its four warps have (gqa_warp.cuh)
// is put together when the segment ends; what several CTAs have of a row, by the last of them.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/gqa_decode_rows.h"
#include "fathom/ops/attention/gqa_warp.cuh"

namespace fathom::ops {
namespace {

using namespace gqa;

constexpr int kResident = 2;
constexpr int kMaxParts = 288;  // CTAs
constexpr int kInFlight = 8;    // loads of a thread under way
constexpr int kEarly = 16;      // parts

struct Partials {
  float* sums;         // [parts][2]: sums [kHeads][D], then maximum and total [2][kHeads]
  uint32_t* arrivals;  // [rows][key heads], zero
  int parts;           // at most
  int processors;
};

template <int D>
struct SharedStorage {
  union {
    WarpMemory<D> warp[kWarps];
    struct {
      float weight[kMaxParts][kHeads];  // the maxima first
      float total[kMaxParts][kHeads];
    } combine;
  };
  Plan plan;
  bool last;
};

template <int D>
struct Decode {
  using Storage = SharedStorage<D>;

  const Arguments& a;
  const Partials& partials;
  Storage& s;
  const Cut& cut;

  __device__ Span span_of(const Segment& segment) const {
    return {
        .token = s.plan.token + segment.row,
        .head = segment.head,
        .page_begin = s.plan.page_begin[segment.row],
        .seen = cut.first_seen(segment.row),
        .first = segment.first,
        .last = segment.last,
    };
  }

  // The part's first blocks, before the predecessor has ended. Where two CTAs fill a multiprocessor
  // there is no room for an early start.
  __device__ void prefetch() const {
    if (cut.parts > partials.processors) return;
    bool begun = false;
    cut.for_each_segment(static_cast<int>(blockIdx.x), [&](const Segment& segment) {
      if (!begun) prefetch_span<D>(a, span_of(segment));
      begun = true;
    });
  }

  __device__ void run(const Segment& segment) {
    WarpDecode<D> work{a, s.warp[threadIdx.x / 32]};
    work.attend(span_of(segment));
    work.leave();
    finish(segment);
  }

  // The four warps' sums become one, and the output or this part's share of it.
  __device__ void finish(const Segment& segment) {
    __syncthreads();
    const int part = static_cast<int>(blockIdx.x);
    float* mine = slot(segment, part);
    for (int i = static_cast<int>(threadIdx.x); i < a.group * D; i += kThreads) {
      const int head = i / D, d = i % D;
      float top = -INFINITY;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) top = fmaxf(top, s.warp[w].maximum[head]);
      float all = 0, value = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float share =
            top == -INFINITY ? 0 : device::exp2_approx(s.warp[w].maximum[head] - top);
        all += share * s.warp[w].total[head];
        value += share * s.warp[w].sums[head][d];
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
    return partials.sums + (int64_t{part} * 2 + inside) * kHeads * (D + 2);
  }

  // The last part to come adds all up.
  __device__ void combine(const Segment& segment) {
    const int first = cut.part_of(segment.begin), last = cut.part_of(segment.end - 1);
    if (threadIdx.x == 0) {
      uint32_t* counter = partials.arrivals + segment.row * a.key_heads + segment.head;
      s.last = device::arrive_counter(counter) == static_cast<uint32_t>(last - first);
      if (s.last) *counter = 0;
    }
    __syncthreads();
    if (!s.last) return;
    if (last - first < kEarly) {
      add_few(segment, first, last - first + 1);
    } else {
      add_many(segment, first, last - first + 1);
    }
    __syncthreads();
  }

  static constexpr int kQuads = D / 4;  // of a head

  __device__ void store(const Segment& segment, int quad, float4 v) const {
    const int64_t token = s.plan.token + segment.row;
    __nv_bfloat16* y = a.y + token * a.y_stride + int64_t{segment.head} * a.group * D + quad * 4;
    *reinterpret_cast<uint2*>(y) = {device::pack_bf16(v.x, v.y), device::pack_bf16(v.z, v.w)};
  }

  static __device__ void add(float4& to, float w, float4 v) {
    to = {fmaf(w, v.x, to.x), fmaf(w, v.y, to.y), fmaf(w, v.z, to.z), fmaf(w, v.w, to.w)};
  }

  // Up to kEarly parts: all that a thread needs of them comes at once.
  __device__ void add_few(const Segment& segment, int first, int parts) const {
    for (int quad = static_cast<int>(threadIdx.x); quad < a.group * kQuads; quad += kThreads) {
      const int head = quad / kQuads;
      float4 value[kEarly];
      float top[kEarly], all[kEarly];
#pragma unroll
      for (int k = 0; k < kEarly; ++k) {
        const float* from = slot(segment, first + min(k, parts - 1));
        value[k] = __ldcg(reinterpret_cast<const float4*>(from) + quad);
        top[k] = __ldcg(from + kHeads * D + head);
        all[k] = __ldcg(from + kHeads * (D + 1) + head);
      }
      const bool sunk = a.sinks != nullptr;
      const float sink = sunk ? a.sinks[segment.head * a.group + head] * kLog2e : -INFINITY;
      float base = sink, total = 0;
#pragma unroll
      for (int k = 0; k < kEarly; ++k) base = fmaxf(base, top[k]);
      float4 sum{};
#pragma unroll
      for (int k = 0; k < kEarly; ++k) {
        if (k >= parts || top[k] == -INFINITY) continue;
        const float weight = device::exp2_approx(top[k] - base);
        total = fmaf(weight, all[k], total);
        add(sum, weight, value[k]);
      }
      if (sunk) total += device::exp2_approx(sink - base);
      const float inverse = total > 0 ? 1 / total : 0.0f;
      store(segment, quad, {sum.x * inverse, sum.y * inverse, sum.z * inverse, sum.w * inverse});
    }
  }

  __device__ void add_many(const Segment& segment, int first, int parts) {
    const int thread = static_cast<int>(threadIdx.x), quads = a.group * kQuads;
    // The first parts' sums come while the statistics are weighed.
    float4 early[kEarly];
#pragma unroll
    for (int k = 0; k < kEarly; ++k) early[k] = sums_of(segment, first + k, min(thread, quads - 1));
    weigh_parts(segment, first, parts);
    for (int quad = thread; quad < quads; quad += kThreads) {
      const int head = quad / kQuads;
      float4 sum{};
      int part = 0;
      if (quad == thread) {
#pragma unroll
        for (int k = 0; k < kEarly; ++k) add(sum, s.combine.weight[k][head], early[k]);
        part = kEarly;
      }
      for (; part < parts; part += kInFlight) {
        float4 v[kInFlight];
#pragma unroll
        for (int k = 0; k < kInFlight; ++k)
          v[k] = sums_of(segment, first + min(part + k, parts - 1), quad);
#pragma unroll
        for (int k = 0; k < kInFlight; ++k)
          if (part + k < parts) add(sum, s.combine.weight[part + k][head], v[k]);
      }
      store(segment, quad, sum);
    }
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
__global__ void __launch_bounds__(kThreads, kResident)
    decode(const Arguments a, const Partials partials) {
  extern __shared__ __align__(128) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<D>*>(memory);
  device::launch_successor();
  Cut::make(a.rows, a.key_heads, a.window, s.plan);
  const Cut cut(s.plan, a.rows, a.key_heads, a.window, partials.parts);
  // Without work, leave room for the successor; the first CTA waits in any case, for the kernel.
  if (blockIdx.x > 0 && static_cast<int>(blockIdx.x) >= cut.parts) return;
  Decode<D> work{a, partials, s, cut};
  work.prefetch();
  device::wait_for_predecessor();
  cut.for_each_segment(static_cast<int>(blockIdx.x), [&](const Segment& segment) {
    work.run(segment);
    __syncthreads();
  });
}

template <int D>
void run(Exec& exec, const PagedAttention& args) {
  Workspace::Mark mark(*exec.workspace);
  const int processors = cuda::multiprocessors(exec.device.index);
  const int parts = std::min(kResident * processors, kMaxParts);
  const Tensor sums =
      exec.workspace->alloc(DType::f32, {int64_t{parts} * 2, kHeads, int64_t{D} + 2});
  cuda::launch(
      exec,
      "gqa_decode",
      {.grid = dim3(static_cast<unsigned>(parts)),
       .threads = kThreads,
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<D>))},
      decode<D>,
      arguments_of(args),
      Partials{
          .sums = sums.as<float>(),
          .arrivals = exec.semaphores,
          .parts = parts,
          .processors = processors}
  );
}

}  // namespace

bool gqa_decode_takes_split(const Exec&, const PagedAttention& args) {
  const int64_t B = args.rows.kv_len.dim(0);
  return takes(args) && B <= kMaxRows && B * args.keys.dim(1) <= Exec::kSemaphoreWords;
}

void gqa_decode_split(Exec& exec, const PagedAttention& args) {
  args.q.dim(2) == 64 ? run<64>(exec, args) : run<128>(exec, args);
}

}  // namespace fathom::ops
