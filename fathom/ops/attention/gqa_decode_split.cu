// gqa_decode, row split: tensor cores (mma.sync), BF16, keys and values read once from DRAM for all
// query heads of a group. docs/kernels/gqa_decode.md.
//
// A CTA takes a run of 64-position blocks (gqa_split.cuh). What its four warps have (gqa_warp.cuh)
// is put together when the segment ends. Several CTAs that have something of a row and head send it
// to each other (device/mail.cuh): each adds up its share of the output.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/core/device_words.h"
#include "fathom/ops/attention/gqa_decode_rows.h"
#include "fathom/ops/attention/gqa_warp.cuh"
#include "fathom/ops/device/mail.cuh"

namespace fathom::ops {
namespace {

using namespace gqa;

constexpr int kResident = 2;
constexpr int kMaxParts = 288;               // CTAs
constexpr int kMaxQuads = kHeads * 128 / 4;  // of four values, of a row and key head
constexpr int kLetter = 6;                   // words: a quad, its head's maximum and total
constexpr int kAtOnce = 2;                   // letters of a thread
static_assert(kMaxParts * 2 * kMaxQuads * kLetter <= kMailWords);

struct Mail {
  uint32_t* words;  // [parts][2][quads]: four sums each, then [quads]: maximum and total
  int parts;        // at most
  int processors;
};

// What a part adds up of a row and key head: quads from `begin` on, of `parts` from `first` on.
struct Share {
  Segment segment;
  int first, parts, begin, quads;
  int log_lanes;  // that share a quad
  __device__ int letters() const { return parts * quads; }
};

template <int D>
struct SharedStorage {
  static constexpr int kLetters = 2 * (kMaxQuads + kMaxParts);
  union {
    WarpMemory<D> warp[kWarps];
    struct {
      float4 sum[kLetters];
      float2 statistic[kLetters];  // maximum, total
    } letter;
  };
  Plan plan;
  Share share[2];  // a part's first row and head, and its last
};

template <int D>
struct Decode {
  using Storage = SharedStorage<D>;
  static constexpr int kQuads = D / 4;  // of a head

  const Arguments& a;
  const Mail& mail;
  Storage& s;
  const Cut& cut;
  const int quads = a.group * kQuads;
  int shares = 0;

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

  // Where two CTAs fill a multiprocessor there is no room for an early start.
  __device__ bool starts_early() const { return cut.parts <= mail.processors; }

  // Before the predecessor has ended: the part's first blocks on their way, and its shares.
  __device__ void prepare() {
    bool begun = false;
    cut.for_each_segment(static_cast<int>(blockIdx.x), [&](const Segment& segment) {
      if (!begun) prefetch_span<D>(a, span_of(segment));
      begun = true;
      if (!segment.whole) expect(segment);
    });
  }

  __device__ void run(const Segment& segment) {
    WarpDecode<D> work{a, s.warp[threadIdx.x / 32]};
    work.attend(span_of(segment));
    work.leave();
    finish(segment);
  }

  static __device__ void add(float4& to, float w, float4 v) {
    to = {fmaf(w, v.x, to.x), fmaf(w, v.y, to.y), fmaf(w, v.z, to.z), fmaf(w, v.w, to.w)};
  }

  // The four warps' sums become one: the output, or what this part sends.
  __device__ void finish(const Segment& segment) {
    __syncthreads();
    uint32_t* sums = slot(segment, static_cast<int>(blockIdx.x));
    for (int quad = static_cast<int>(threadIdx.x); quad < quads; quad += kThreads) {
      const int head = quad / kQuads, d = quad % kQuads * 4;
      float top = -INFINITY, all = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) top = fmaxf(top, s.warp[w].maximum[head]);
      float4 value{};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float share =
            top == -INFINITY ? 0 : device::exp2_approx(s.warp[w].maximum[head] - top);
        all += share * s.warp[w].total[head];
        add(value, share, *reinterpret_cast<const float4*>(&s.warp[w].sums[head][d]));
      }
      if (segment.whole) {
        write(segment, quad, top, all, value);
      } else {
        device::send(sums + 4 * quad, value);
        device::send(sums + 4 * quads + 2 * quad, make_float2(top, all));
      }
    }
  }

  __device__ void write(const Segment& segment, int quad, float top, float all, float4 v) const {
    float kept = 1;
    if (a.sinks != nullptr) {
      const float sink = a.sinks[segment.head * a.group + quad / kQuads] * kLog2e;
      const float base = fmaxf(top, sink);
      kept = top == -INFINITY ? 0 : device::exp2_approx(top - base);
      all = all * kept + device::exp2_approx(sink - base);
    }
    const float by = all > 0 ? kept / all : 0;
    const int64_t token = s.plan.token + segment.row;
    __nv_bfloat16* y = a.y + token * a.y_stride + int64_t{segment.head} * a.group * D + quad * 4;
    *reinterpret_cast<uint2*>(y) = {
        device::pack_bf16(v.x * by, v.y * by), device::pack_bf16(v.z * by, v.w * by)};
  }

  __device__ uint32_t* slot(const Segment& segment, int part) const {
    const int inside = segment.begin > cut.begin_of(part) ? 1 : 0;
    return mail.words + (part * 2 + inside) * quads * kLetter;
  }

  // This part's share of a segment that others have something of. By all threads.
  __device__ void expect(const Segment& segment) {
    Share share{.segment = segment, .first = cut.part_of(segment.begin)};
    share.parts = cut.part_of(segment.end - 1) - share.first + 1;
    const int own = static_cast<int>(blockIdx.x) - share.first;
    share.begin = quads * own / share.parts;
    share.quads = quads * (own + 1) / share.parts - share.begin;
    share.log_lanes = 0;
    for (int lanes = 2; lanes <= 32 && lanes < 2 * share.parts && lanes * share.quads <= kThreads;
         lanes *= 2)
      ++share.log_lanes;
    if (threadIdx.x == 0) s.share[shares] = share;
    ++shares;
  }

  // The shares, from all that have sent something of them. All parts run at once, and each sends
  // all it has before it waits.
  __device__ void receive() {
    if (shares == 0) return;
    const int of_first = s.share[0].letters();
    take(of_first, shares == 1 ? of_first : of_first + s.share[1].letters());
    __syncthreads();
    for (int i = 0; i < shares; ++i) add_up(s.share[i], i == 0 ? 0 : of_first);
  }

  // Letters as they come, and zeros where they lay: [parts][quads] of each share.
  __device__ void take(int of_first, int letters) {
    for (int base = static_cast<int>(threadIdx.x); base < letters; base += kThreads * kAtOnce) {
      uint32_t *sums[kAtOnce], *statistics[kAtOnce];
      uint4 sum[kAtOnce];
      uint2 statistic[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        int i = min(base + k * kThreads, letters - 1);
        const Share& share = s.share[i < of_first ? 0 : 1];
        if (i >= of_first) i -= of_first;
        const int part = i / share.quads, quad = share.begin + i - part * share.quads;
        uint32_t* from = slot(share.segment, share.first + part);
        sums[k] = from + 4 * quad;
        statistics[k] = from + 4 * quads + 2 * quad;
      }
      bool all;
      do {
        all = true;
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          if (base + k * kThreads >= letters) continue;
          sum[k] = device::peek_4(sums[k]);
          statistic[k] = device::peek_2(statistics[k]);
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          if (base + k * kThreads < letters)
            all = all && device::arrived(sum[k]) && device::arrived(statistic[k]);
        }
      } while (!all);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int i = base + k * kThreads;
        if (i >= letters) continue;
        *reinterpret_cast<uint4*>(sums[k]) = uint4{};
        *reinterpret_cast<uint2*>(statistics[k]) = uint2{};
        s.letter.sum[i] = device::opened(sum[k]);
        s.letter.statistic[i] = device::opened(statistic[k]);
      }
    }
  }

  // Lanes side by side share a quad's parts and add up in a fixed order.
  __device__ void add_up(const Share& share, int letters) const {
    const float4* sums = s.letter.sum + letters;
    const float2* statistics = s.letter.statistic + letters;
    const int lanes = 1 << share.log_lanes, lane = static_cast<int>(threadIdx.x) & (lanes - 1);
    for (int base = 0; base < share.quads; base += kThreads >> share.log_lanes) {
      const int at = base + (static_cast<int>(threadIdx.x) >> share.log_lanes),
                quad = min(at, share.quads - 1);
      float top = -INFINITY, all = 0;
      for (int k = lane; k < share.parts; k += lanes)
        top = fmaxf(top, statistics[k * share.quads + quad].x);
      for (int d = lanes / 2; d > 0; d /= 2)
        top = fmaxf(top, __shfl_xor_sync(device::kFullWarp, top, d));
      float4 sum{};
      for (int k = lane; k < share.parts && top != -INFINITY; k += lanes) {
        const float2 of = statistics[k * share.quads + quad];
        const float weight = device::exp2_approx(of.x - top);
        all = fmaf(weight, of.y, all);
        add(sum, weight, sums[k * share.quads + quad]);
      }
      for (int d = lanes / 2; d > 0; d /= 2) {
        all += __shfl_xor_sync(device::kFullWarp, all, d);
        sum.x += __shfl_xor_sync(device::kFullWarp, sum.x, d);
        sum.y += __shfl_xor_sync(device::kFullWarp, sum.y, d);
        sum.z += __shfl_xor_sync(device::kFullWarp, sum.z, d);
        sum.w += __shfl_xor_sync(device::kFullWarp, sum.w, d);
      }
      if (at < share.quads && lane == 0) write(share.segment, share.begin + at, top, all, sum);
    }
  }
};

template <int D>
__global__ void __launch_bounds__(kThreads, kResident) decode(const Arguments a, const Mail mail) {
  extern __shared__ __align__(128) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage<D>*>(memory);
  device::launch_successor();
  Cut::make(a.rows, a.key_heads, a.window, s.plan);
  const Cut cut(s.plan, a.rows, a.key_heads, a.window, mail.parts);
  // Without work, leave room for the successor; the first CTA waits in any case, for the kernel.
  const int part = static_cast<int>(blockIdx.x);
  if (part > 0 && part >= cut.parts) return;
  Decode<D> work{a, mail, s, cut};
  const bool early = work.starts_early();
  if (early) work.prepare();
  device::wait_for_predecessor();
  cut.for_each_segment(part, [&](const Segment& segment) {
    work.run(segment);
    if (!early && !segment.whole) work.expect(segment);
    __syncthreads();
  });
  work.receive();
}

template <int D>
void run(Exec& exec, const PagedAttention& args) {
  const int processors = cuda::multiprocessors(exec.device.index);
  const int parts = std::min(kResident * processors, kMaxParts);
  cuda::launch(
      exec,
      "gqa_decode",
      {.grid = dim3(static_cast<unsigned>(parts)),
       .threads = kThreads,
       .shared_bytes = static_cast<int>(sizeof(SharedStorage<D>))},
      decode<D>,
      arguments_of(args),
      Mail{.words = mail_of(exec), .parts = parts, .processors = processors}
  );
}

}  // namespace

bool gqa_decode_takes_split(const Exec&, const PagedAttention& args) {
  return takes(args) && args.rows.kv_len.dim(0) <= kMaxRows;
}

void gqa_decode_split(Exec& exec, const PagedAttention& args) {
  args.q.dim(2) == 64 ? run<64>(exec, args) : run<128>(exec, args);
}

}  // namespace fathom::ops
