// moe_align, row cuda_sort: a stable counting sort by one CTA, or by a cluster for more than a
// thousand slots. Each warp counts a part of the slots by expert; a slot's place is the experts'
// before it, the CTAs' and warps' before its own, and those of its warp that came earlier. A thread
// keeps its slots in registers in between. A CTA of a cluster orders its own slots while the
// cluster meets, so that it writes runs of an expert's.
#include <algorithm>

#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/moe/moe_align_rows.h"

namespace fathom::ops {
namespace {

constexpr int kMaxExperts = 1024;
constexpr int kMostWarps = 32;
constexpr int kRankBits = 20;  // of a held slot: its expert is above them

struct Arguments {
  const int32_t* ids;
  int32_t *slots, *places, *begin;
  int64_t ids_stride;
  int n, k, E;
  int cta_slots, warp_slots;  // of a CTA's and a warp's part: multiples of 32
  int warps;                  // of a CTA, that have any
};

constexpr int kFewThreads = 512;
constexpr int kIndexBits = 15;  // of a CTA's slot in its order: its expert is above them

struct SharedStorage {
  int total[kMaxExperts];  // this CTA's slots
  int local[kMaxExperts];  // of the experts before, of this CTA
  int base[kMaxExperts];   // of the experts before, and of this one in the CTAs before
  int warp_total[kMostWarps];
  int count;  // of this CTA's slots that have an expert
};
using Count = uint16_t;  // of a warp's slots of an expert, or of the warps' before it

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

  __device__ __forceinline__ Slots(const Arguments& a, int cta, int warp) {
    const int begin = cta * a.cta_slots + warp * a.warp_slots;
    end = min(min(begin + a.warp_slots, (cta + 1) * a.cta_slots), a.n);
    first = begin + static_cast<int>(threadIdx.x) % 32;
    const int tokens = 32 / a.k, choices = 32 - tokens * a.k;  // of one step
    int token = first / a.k, choice = first - token * a.k;
#pragma unroll
    for (int j = 0; j < Held; ++j) {
      held[j] = first + 32 * j < end ? __ldcg(a.ids + token * a.ids_stride + choice) : -1;
      token += tokens;
      choice += choices;
      if (choice >= a.k) {
        ++token;
        choice -= a.k;
      }
    }
  }

  // Adds the warp's slots to `counts` [E], all lanes together.
  __device__ __forceinline__ void rank(Count* counts, int E) {
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
      if (id >= 0 && earlier == 0) counts[id] = static_cast<Count>(found + __popc(peers));
      __syncwarp();
      if (id >= 0) held[j] = id << kRankBits | (found + earlier);
    }
  }

  // Ranks become those among the CTA's slots of the expert, behind `starts` [E].
  __device__ __forceinline__ void add(const Count* counts, const int* starts) {
#pragma unroll
    for (int j = 0; j < Held; ++j) {
      if (held[j] < 0) continue;
      const int id = held[j] >> kRankBits;
      held[j] += counts[id] + starts[id];
    }
  }

  // f(slot, its expert or -1, its rank)
  template <class F>
  __device__ __forceinline__ void each(F f) const {
#pragma unroll
    for (int j = 0; j < Held; ++j) {
      if (first + 32 * j >= end) break;
      f(first + 32 * j, held[j] >> kRankBits, held[j] % (1 << kRankBits));
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
  const int total = lane < warp ? s.warp_total[lane] : 0;
  return __reduce_add_sync(device::kFullWarp, static_cast<unsigned>(total)) + sum - value;
}

// counts [warps][E] of this CTA become those of the warps before; their sums go to s.total.
template <int Warps>
__device__ void add_warps(const Arguments& a, Count* counts, SharedStorage& s) {
  for (int e = static_cast<int>(threadIdx.x); e < a.E; e += Warps * 32) {
    int own[Warps], before = 0;
#pragma unroll
    for (int w = 0; w < Warps; ++w) own[w] = w < a.warps ? counts[w * a.E + e] : 0;
#pragma unroll
    for (int w = 0; w < Warps; ++w) {
      if (w < a.warps) counts[w * a.E + e] = static_cast<Count>(before);
      before += own[w];
    }
    s.total[e] = before;
  }
}

// s.base of all CTAs' totals, and `begin`.
template <int Ctas, int Threads>
__device__ void lay_out(const Arguments& a, SharedStorage& s, int rank) {
  constexpr int kEach = kMaxExperts / Threads;  // experts of a thread, side by side
  int before[kEach] = {}, own[kEach] = {}, all = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int expert = static_cast<int>(threadIdx.x) * kEach + i;
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
  for (int i = 0; i < kEach; ++i) {
    const int expert = static_cast<int>(threadIdx.x) * kEach + i;
    if (expert < a.E) s.base[expert] = first + before[i];
    if (rank == 0 && expert <= a.E) a.begin[expert] = first;
    first += own[i];
  }
  if (rank == 0 && threadIdx.x == Threads - 1 && a.E == kMaxExperts) a.begin[a.E] = first;
}

// s.local and s.count.
template <int Threads>
__device__ void lay_out_own(const Arguments& a, SharedStorage& s) {
  constexpr int kEach = kMaxExperts / Threads;
  int own[kEach], all = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int expert = static_cast<int>(threadIdx.x) * kEach + i;
    own[i] = expert < a.E ? s.total[expert] : 0;
    all += own[i];
  }
  int first = prefix(all, s);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    s.local[static_cast<int>(threadIdx.x) * kEach + i] = first;
    first += own[i];
  }
  if (threadIdx.x == Threads - 1) s.count = first;
}

template <int Held>
__global__ void __launch_bounds__(kFewThreads) sort_few(const Arguments a) {
  extern __shared__ __align__(16) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage*>(memory);
  auto* counts = reinterpret_cast<Count*>(memory + sizeof(SharedStorage));  // [warps][E]
  const int warp = static_cast<int>(threadIdx.x) / 32;
  for (int i = static_cast<int>(threadIdx.x); i < a.warps * a.E; i += kFewThreads) counts[i] = 0;
  device::launch_successor();
  device::wait_for_predecessor();
  Slots<Held> slots(a, 0, warp);
  __syncthreads();
  slots.rank(counts + warp * a.E, a.E);
  __syncthreads();
  add_warps<kFewThreads / 32>(a, counts, s);
  __syncthreads();
  lay_out<1, kFewThreads>(a, s, 0);
  __syncthreads();
  slots.add(counts + warp * a.E, s.base);
  slots.each([&](int i, int id, int to) {
    a.places[i] = id < 0 ? -1 : to;
    if (id >= 0) a.slots[to] = i;
  });
}

__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

template <int Ctas, int Threads, int Held>
__global__ void __launch_bounds__(Threads) sort_many(const Arguments a) {
  extern __shared__ __align__(16) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage*>(memory);
  // This CTA's slots in the order of their experts, each with its expert.
  auto* order = reinterpret_cast<uint32_t*>(memory + sizeof(SharedStorage));  // [cta_slots]
  auto* counts = reinterpret_cast<Count*>(order + a.cta_slots);               // [warps][E]
  const int rank = static_cast<int>(device::cluster_rank()), begin = rank * a.cta_slots;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  for (int i = thread; i < a.warps * a.E; i += Threads) counts[i] = 0;
  device::launch_successor();
  device::wait_for_predecessor();
  Slots<Held> slots(a, rank, warp);
  __syncthreads();
  slots.rank(counts + warp * a.E, a.E);
  __syncthreads();
  add_warps<Threads / 32>(a, counts, s);
  cluster_arrive();
  __syncthreads();
  lay_out_own<Threads>(a, s);
  __syncthreads();
  slots.add(counts + warp * a.E, s.local);
  slots.each([&](int i, int id, int to) {
    if (id >= 0) order[to] = static_cast<uint32_t>(id << kIndexBits | (i - begin));
  });
  cluster_wait();
  lay_out<Ctas, Threads>(a, s, rank);
  cluster_arrive();
  __syncthreads();
  for (int i = thread; i < s.count; i += Threads) {
    const uint32_t slot = order[i], id = slot >> kIndexBits;
    a.slots[s.base[id] - s.local[id] + i] = begin + static_cast<int>(slot % (1u << kIndexBits));
  }
  slots.each([&](int i, int id, int to) {
    a.places[i] = id < 0 ? -1 : s.base[id] - s.local[id] + to;
  });
  cluster_wait();  // peers have read this CTA's totals
}

// Of many slots. More than 8 CTAs of a cluster have to be allowed; they lie in one GPC.
constexpr int kCluster = 16, kThreads = 1024;
constexpr int kHeld = 3, kMostHeld = 12;

int round_up(int64_t n, int64_t parts) {
  return static_cast<int>((n + parts * 32 - 1) / (parts * 32) * 32);
}

}  // namespace

bool moe_align_takes_cuda_sort(const Exec&, const MoeAlign& args) {
  return args.begin.dim(0) - 1 <= kMaxExperts &&
         args.slots.dim(0) <= int64_t{kCluster} * kThreads * kMostHeld;
}

void moe_align_cuda_sort(Exec& exec, const MoeAlign& args) {
  const int64_t n = args.slots.dim(0);
  const bool few = n <= kFewThreads * 2;
  const int ctas = few ? 1 : kCluster, threads = few ? kFewThreads : kThreads;
  const int cta_slots = round_up(n, ctas), warp_slots = round_up(cta_slots, threads / 32);
  const Arguments a{
      .ids = args.ids.as<int32_t>(),
      .slots = args.slots.as<int32_t>(),
      .places = args.places.as<int32_t>(),
      .begin = args.begin.as<int32_t>(),
      .ids_stride = args.ids.stride(0),
      .n = static_cast<int>(n),
      .k = static_cast<int>(args.ids.dim(1)),
      .E = static_cast<int>(args.begin.dim(0) - 1),
      .cta_slots = cta_slots,
      .warp_slots = warp_slots,
      .warps = n == 0 ? 0 : (cta_slots + warp_slots - 1) / warp_slots,
  };
  const int shared = static_cast<int>(sizeof(SharedStorage)) + (few ? 0 : 4 * cta_slots) +
                     static_cast<int>(sizeof(Count)) * a.warps * a.E;
  const auto kernel = n <= kFewThreads           ? sort_few<1>
                      : few                      ? sort_few<2>
                      : warp_slots <= 32 * kHeld ? sort_many<kCluster, kThreads, kHeld>
                                                 : sort_many<kCluster, kThreads, kMostHeld>;
  if (!few) {
    cuda::check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
        "cudaFuncSetAttribute",
        "moe_align"
    );
  }
  cuda::launch(
      exec,
      "moe_align",
      {.grid = dim3(static_cast<unsigned>(ctas)),
       .threads = threads,
       .shared_bytes = shared,
       .cluster = ctas},
      kernel,
      a
  );
}

}  // namespace fathom::ops
