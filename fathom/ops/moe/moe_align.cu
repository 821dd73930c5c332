// moe_align, row cuda_sort: a stable counting sort by one CTA, or by a cluster for more than a
// thousand slots. Each warp counts a part of the slots by expert; a slot's place is the experts'
// before it, the warps' before its own, and those of its warp that came earlier. A thread keeps its
// slots in registers in between.
#include <algorithm>

#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/moe/moe_align_rows.h"

namespace fathom::ops {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kMaxExperts = 1024;
constexpr int kExpertsEach = kMaxExperts / kThreads;  // of a thread, side by side
constexpr int kRankBits = 20;                         // of a held slot: its expert is above them

struct Arguments {
  const int32_t* ids;
  int32_t *slots, *places, *begin;
  int64_t ids_stride;
  int n, k, E;
  int warp_slots;  // of a warp's part: a multiple of 32
  int warps;       // of a CTA, that have any
};

struct SharedStorage {
  int total[kMaxExperts];  // this CTA's slots
  int base[kMaxExperts];   // of the experts before, and of this one in the CTAs before
  int warp_total[kWarps];
};

// The lanes of a warp that hold the same number of `bits` bits. By ballots: match.any takes its
// time for every number there is.
__device__ __forceinline__ uint32_t same_lanes(int number, int bits) {
  uint32_t same = device::kFullWarp;
  for (int b = 0; b < bits; ++b) {
    const bool one = number >> b & 1;
    const uint32_t ones = __ballot_sync(device::kFullWarp, one);
    same &= one ? ones : ~ones;
  }
  return same;
}

// A thread's slots: of its warp's part, 32 apart.
template <int Held>
struct Slots {
  int first, end;  // of the part; first: this thread's
  int held[Held];  // expert and rank among its warp's slots of that expert; -1: none

  __device__ __forceinline__ Slots(const Arguments& a, int part) {
    const int begin = part * a.warp_slots;
    end = min(begin + a.warp_slots, a.n);
    first = begin + static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int j = 0; j < Held; ++j) {
      const int i = first + 32 * j, token = i / a.k;
      held[j] = i < end ? __ldcg(a.ids + token * a.ids_stride + i - token * a.k) : -1;
    }
  }

  // Adds the warp's slots to `counts` [E], all lanes together.
  __device__ __forceinline__ void rank(int* counts, int E) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int bits = 32 - __clz(E);  // of 0 to E, which stands for none
#pragma unroll
    for (int j = 0; j < Held; ++j) {
      if (first - lane + 32 * j >= end) break;
      const int id = held[j];
      const uint32_t peers = same_lanes(id < 0 ? E : id, bits);
      const int earlier = __popc(peers & ((1u << lane) - 1));
      const int found = id < 0 ? 0 : counts[id];
      __syncwarp();
      if (id >= 0 && earlier == 0) counts[id] = found + __popc(peers);
      __syncwarp();
      if (id >= 0) held[j] = id << kRankBits | (found + earlier);
    }
  }

  __device__ __forceinline__ void place(const Arguments& a, const int* counts, const int* base) {
#pragma unroll
    for (int j = 0; j < Held; ++j) {
      const int i = first + 32 * j;
      if (i >= end) break;
      const int id = held[j] >> kRankBits;
      const int to = held[j] < 0 ? -1 : base[id] + counts[id] + held[j] % (1 << kRankBits);
      a.places[i] = to;
      if (to >= 0) a.slots[to] = i;
    }
  }
};

// Exclusive prefix sum over the CTA's threads.
__device__ int prefix(int value, SharedStorage& s) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int sum = value;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const int below = __shfl_up_sync(device::kFullWarp, sum, d);
    sum += lane >= d ? below : 0;
  }
  if (lane == 31) s.warp_total[warp] = sum;
  __syncthreads();
  int before = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) before += w < warp ? s.warp_total[w] : 0;
  return before + sum - value;
}

// counts [warps][E] of this CTA become those of the warps before; their sums go to s.total.
__device__ void add_warps(const Arguments& a, int* counts, SharedStorage& s) {
  for (int e = static_cast<int>(threadIdx.x); e < a.E; e += kThreads) {
    int own[kWarps], before = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) own[w] = w < a.warps ? counts[w * a.E + e] : 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w < a.warps) counts[w * a.E + e] = before;
      before += own[w];
    }
    s.total[e] = before;
  }
}

template <int Ctas>
__device__ void lay_out(const Arguments& a, SharedStorage& s, int rank) {
  int before[kExpertsEach] = {}, own[kExpertsEach] = {}, all = 0;
#pragma unroll
  for (int i = 0; i < kExpertsEach; ++i) {
    const int expert = static_cast<int>(threadIdx.x) * kExpertsEach + i;
#pragma unroll
    for (int c = 0; c < Ctas && expert < a.E; ++c) {
      const int* totals = Ctas == 1 ? s.total : device::peer_object(s.total, c);
      before[i] += c < rank ? totals[expert] : 0;
      own[i] += totals[expert];
    }
    all += own[i];
  }
  int first = prefix(all, s);
#pragma unroll
  for (int i = 0; i < kExpertsEach; ++i) {
    const int expert = static_cast<int>(threadIdx.x) * kExpertsEach + i;
    if (expert < a.E) s.base[expert] = first + before[i];
    if (rank == 0 && expert <= a.E) a.begin[expert] = first;
    first += own[i];
  }
  if (rank == 0 && threadIdx.x == kThreads - 1 && a.E == kMaxExperts) a.begin[a.E] = first;
}

template <int Ctas, int Held>
__global__ void __launch_bounds__(kThreads) sort_slots(const Arguments a) {
  extern __shared__ __align__(16) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage*>(memory);
  int* counts = reinterpret_cast<int*>(memory + sizeof(SharedStorage));  // [warps][E]
  const int rank = Ctas == 1 ? 0 : static_cast<int>(device::cluster_rank());
  const int warp = static_cast<int>(threadIdx.x) / 32;
  for (int i = static_cast<int>(threadIdx.x); i < a.warps * a.E; i += kThreads) counts[i] = 0;
  device::launch_successor();
  device::wait_for_predecessor();
  Slots<Held> slots(a, rank * kWarps + warp);
  __syncthreads();
  slots.rank(counts + warp * a.E, a.E);
  __syncthreads();
  add_warps(a, counts, s);
  Ctas == 1 ? __syncthreads() : device::cluster_barrier();
  lay_out<Ctas>(a, s, rank);
  Ctas == 1 ? __syncthreads() : device::cluster_barrier();  // peers' totals have been read
  slots.place(a, counts + warp * a.E, s.base);
}

constexpr int kCluster = 8;
constexpr int64_t kOneCta = 512 * 2;  // slots
constexpr int kHeld = 10, kMostHeld = 48;

}  // namespace

bool moe_align_takes_cuda_sort(const Exec&, const MoeAlign& args) {
  return args.begin.dim(0) - 1 <= kMaxExperts &&
         args.slots.dim(0) <= int64_t{kCluster} * kThreads * kMostHeld;
}

void moe_align_cuda_sort(Exec& exec, const MoeAlign& args) {
  const int64_t n = args.slots.dim(0);
  const int ctas = n <= kOneCta ? 1 : kCluster;
  const int64_t parts = int64_t{ctas} * kWarps;
  Arguments a{
      .ids = args.ids.as<int32_t>(),
      .slots = args.slots.as<int32_t>(),
      .places = args.places.as<int32_t>(),
      .begin = args.begin.as<int32_t>(),
      .ids_stride = args.ids.stride(0),
      .n = static_cast<int>(n),
      .k = static_cast<int>(args.ids.dim(1)),
      .E = static_cast<int>(args.begin.dim(0) - 1),
      .warp_slots = static_cast<int>((n + parts * 32 - 1) / (parts * 32) * 32),
      .warps = 0,
  };
  if (n > 0)
    a.warps = static_cast<int>(std::min<int64_t>((n + a.warp_slots - 1) / a.warp_slots, kWarps));
  const int shared =
      static_cast<int>(sizeof(SharedStorage)) + a.warps * a.E * static_cast<int>(sizeof(int));
  const auto kernel = n <= kThreads                ? sort_slots<1, 1>
                      : ctas == 1                  ? sort_slots<1, 2>
                      : a.warp_slots <= 32 * kHeld ? sort_slots<kCluster, kHeld>
                                                   : sort_slots<kCluster, kMostHeld>;
  cuda::launch(
      exec,
      "moe_align",
      {.grid = dim3(static_cast<unsigned>(ctas)),
       .threads = kThreads,
       .shared_bytes = shared,
       .cluster = ctas},
      kernel,
      a
  );
}

}  // namespace fathom::ops
