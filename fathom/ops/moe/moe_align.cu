// moe_align, row cuda_sort: a stable counting sort by one CTA, or by a cluster for more than a
// thousand slots. Each warp counts a part of the slots by expert; a slot's place is the experts'
// before it, the warps' before its own, and those of its warp that came earlier.
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
constexpr int kAhead = 12;                            // loads of a thread under way

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

// The slots of a warp's part: f(slot, expert or -1, stays), all lanes together.
template <class F>
__device__ void for_each_slot(const Arguments& a, int part, F f) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = part * a.warp_slots, end = min(first + a.warp_slots, a.n);
  for (int from = first; from < end; from += 32 * kAhead) {
    int id[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int i = from + j * 32 + lane, token = i / a.k;
      id[j] = i < end ? __ldcg(a.ids + token * a.ids_stride + i - token * a.k) : -1;
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (from + j * 32 < end) f(from + j * 32 + lane, id[j], from + j * 32 + lane < end);
    }
  }
}

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
  for (int e = static_cast<int>(threadIdx.x); e < kMaxExperts; e += kThreads) {
    int before = 0;
    for (int w = 0; w < a.warps && e < a.E; ++w) {
      const int own = counts[w * a.E + e];
      counts[w * a.E + e] = before;
      before += own;
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
    for (int c = 0; c < Ctas; ++c) {
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
    s.base[expert] = first + before[i];
    if (rank == 0 && expert <= a.E) a.begin[expert] = first;
    first += own[i];
  }
  if (rank == 0 && threadIdx.x == kThreads - 1 && a.E == kMaxExperts) a.begin[a.E] = first;
}

template <int Ctas>
__global__ void __launch_bounds__(kThreads) sort_slots(const Arguments a) {
  extern __shared__ __align__(16) uint8_t memory[];
  auto& s = *reinterpret_cast<SharedStorage*>(memory);
  int* counts = reinterpret_cast<int*>(memory + sizeof(SharedStorage));  // [warps][E]
  const int rank = Ctas == 1 ? 0 : static_cast<int>(device::cluster_rank());
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = static_cast<int>(threadIdx.x); i < a.warps * a.E; i += kThreads) counts[i] = 0;
  device::launch_successor();
  device::wait_for_predecessor();
  __syncthreads();
  int* own = counts + warp * a.E;
  const int part = rank * kWarps + warp;
  for_each_slot(a, part, [&](int slot, int id, bool stays) {
    const uint32_t peers = __match_any_sync(device::kFullWarp, id);
    const int earlier = __popc(peers & ((1u << lane) - 1));
    const int found = id < 0 ? 0 : own[id];
    __syncwarp();
    if (id >= 0 && earlier == 0) own[id] = found + __popc(peers);
    __syncwarp();
    if (stays) a.places[slot] = id < 0 ? -1 : found + earlier;
  });
  __syncthreads();
  add_warps(a, counts, s);
  Ctas == 1 ? __syncthreads() : device::cluster_barrier();
  lay_out<Ctas>(a, s, rank);
  Ctas == 1 ? __syncthreads() : device::cluster_barrier();  // peers' totals have been read
  for_each_slot(a, part, [&](int slot, int id, bool stays) {
    if (!stays || id < 0) return;
    const int place = s.base[id] + own[id] + a.places[slot];
    a.places[slot] = place;
    a.slots[place] = slot;
  });
}

}  // namespace

bool moe_align_takes_cuda_sort(const Exec&, const MoeAlign& args) {
  return args.begin.dim(0) - 1 <= kMaxExperts;
}

void moe_align_cuda_sort(Exec& exec, const MoeAlign& args) {
  const int64_t n = args.slots.dim(0);
  constexpr int kCluster = 8;
  constexpr int64_t kOneCta = 1024;
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
      .warps = kWarps,
  };
  if (ctas == 1 && n > 0) a.warps = static_cast<int>((n + a.warp_slots - 1) / a.warp_slots);
  if (n == 0) a.warps = 0;
  const int shared =
      static_cast<int>(sizeof(SharedStorage)) + a.warps * a.E * static_cast<int>(sizeof(int));
  cuda::launch(
      exec,
      "moe_align",
      {.grid = dim3(static_cast<unsigned>(ctas)),
       .threads = kThreads,
       .shared_bytes = shared,
       .cluster = ctas},
      ctas == 1 ? sort_slots<1> : sort_slots<kCluster>,
      a
  );
}

}  // namespace fathom::ops
