// expert_quant, row cuda_strided: a grid of as many CTAs as run at once strides over all live rows,
// a warp per some groups of one. Each CTA sums the experts' counts once; a row's expert is found
// among them by a warp in two looks. Of few rows every one is read before it is known to be live.
#include "fathom/core/cuda/cuda_device.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/quant/expert_quant_rows.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/quant/group_lanes.cuh"

namespace fathom::ops {
namespace {

constexpr int kMaxExperts = 1024;
constexpr int kMostWarps = 16, kLeastThreads = 128;  // of a CTA
constexpr int kExpertsEach = kMaxExperts / kLeastThreads;
constexpr int64_t kFewThreads = 1024;  // of a processor
constexpr int kMostItems = 4;          // groups of half a warp at once
constexpr int64_t kFewRows = 64;

template <class X>
struct Arguments {
  quant::Rows<X> rows;
  const int32_t *first, *count;
  int E;
};

struct SharedStorage {
  int end[kMaxExperts];    // live rows of the experts up to this one
  int shift[kMaxExperts];  // from a live row's number to its row
  int warp_total[kMostWarps];
};

// By all threads, each with `each` experts side by side; the number of live rows.
template <class X>
__device__ int lay_out(const Arguments<X>& a, SharedStorage& s) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int each = (a.E + static_cast<int>(blockDim.x) - 1) / static_cast<int>(blockDim.x);
  int first[kExpertsEach], count[kExpertsEach], own = 0;
#pragma unroll
  for (int i = 0; i < kExpertsEach; ++i) {
    const int e = thread * each + i;
    const bool there = i < each && e < a.E;
    count[i] = there ? __ldcg(a.count + e) : 0;
    first[i] = there ? __ldcg(a.first + e) : 0;
  }
#pragma unroll
  for (int i = 0; i < kExpertsEach; ++i) own += count[i];
  int sum = own;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const int below = __shfl_up_sync(device::kFullWarp, sum, d);
    sum += lane >= d ? below : 0;
  }
  if (lane == 31) s.warp_total[warp] = sum;
  __syncthreads();
  int before = 0, all = 0;
#pragma unroll
  for (int w = 0; w < kMostWarps; ++w) {
    const int total = w < static_cast<int>(blockDim.x) / 32 ? s.warp_total[w] : 0;
    before += w < warp ? total : 0;
    all += total;
  }
  before += sum - own;
#pragma unroll
  for (int i = 0; i < kExpertsEach; ++i) {
    const int e = thread * each + i;
    if (i >= each || e >= a.E) continue;
    s.shift[e] = first[i] - before;
    s.end[e] = before += count[i];
  }
  __syncthreads();
  return all;
}

// The row of live row `live`, by a warp: its expert is the first whose rows end behind it.
__device__ int row_of(const SharedStorage& s, int E, int live) {
  const int lane = static_cast<int>(threadIdx.x) % 32, step = (E + 31) / 32;
  const int last = min((lane + 1) * step, E) - 1;
  const uint32_t behind = __ballot_sync(device::kFullWarp, live < s.end[last]);
  const int part = (__ffs(static_cast<int>(behind)) - 1) * step, e = min(part + lane, E - 1);
  const uint32_t found = __ballot_sync(device::kFullWarp, live < s.end[e]);
  return live + s.shift[part + __ffs(static_cast<int>(found)) - 1];
}

template <class X, bool Swiglu, int Items>
__global__ void __launch_bounds__(kMostWarps * 32) quantise_live(const Arguments<X> a) {
  constexpr unsigned kGroups = 2 * Items;
  __shared__ SharedStorage s;
  device::launch_successor();
  device::wait_for_predecessor();
  const auto live = static_cast<unsigned>(lay_out(a, s));
  const auto groups = static_cast<unsigned>(a.rows.K / kFp8Block);
  const unsigned parts = (groups + kGroups - 1) / kGroups, units = live * parts;
  const unsigned warps = blockDim.x / 32, half = threadIdx.x % 32 / quant::kLanes;
  for (unsigned unit = blockIdx.x * warps + threadIdx.x / 32; unit < units;
       unit += gridDim.x * warps) {
    const unsigned number = unit / parts, first = (unit - number * parts) * kGroups + half;
    const int row = row_of(s, a.E, static_cast<int>(number));
    quant::Lane<X, Swiglu> lane[Items];
#pragma unroll
    for (int j = 0; j < Items; ++j)
      lane[j].load(a.rows, row, static_cast<int>(min(first + 2 * j, groups - 1)));
#pragma unroll
    for (int j = 0; j < Items; ++j) {
      if (first - half + 2 * j >= groups) break;  // the warp's
      const unsigned group = min(first + 2 * j, groups - 1);
      lane[j].quantise(a.rows, row, static_cast<int>(group), first + 2 * j < groups);
    }
  }
}

// Few rows: a CTA for eight groups of any, whose values are on their way while it asks for the
// row's expert.
template <class X, bool Swiglu>
__global__ void __launch_bounds__(kLeastThreads) quantise_few(const Arguments<X> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int row = static_cast<int>(blockIdx.y), groups = a.rows.K / kFp8Block;
  const int group = static_cast<int>(blockIdx.x * kLeastThreads + threadIdx.x) / quant::kLanes;
  quant::Lane<X, Swiglu> lane;
  lane.load(a.rows, row, min(group, groups - 1));
  int first[kExpertsEach], count[kExpertsEach];
#pragma unroll
  for (int i = 0; i < kExpertsEach; ++i) {
    const int e = i * kLeastThreads + static_cast<int>(threadIdx.x);
    first[i] = e < a.E ? __ldcg(a.first + e) : 0;
    count[i] = e < a.E ? __ldcg(a.count + e) : 0;
  }
  bool live = false;
#pragma unroll
  for (int i = 0; i < kExpertsEach; ++i) live |= row >= first[i] && row - first[i] < count[i];
  if (__syncthreads_or(live)) lane.quantise(a.rows, row, group, group < groups);
}

template <class X, bool Swiglu>
void run_few(const Exec& exec, const Arguments<X>& a, int64_t rows) {
  const int64_t threads = fp8_blocks(a.rows.K) * quant::kLanes;
  const dim3 grid(
      static_cast<unsigned>((threads + kLeastThreads - 1) / kLeastThreads),
      static_cast<unsigned>(rows)
  );
  cuda::launch(
      exec, "expert_quant", {.grid = grid, .threads = kLeastThreads}, quantise_few<X, Swiglu>, a
  );
}

template <class X, bool Swiglu>
void run(const Exec& exec, const ExpertQuant& args) {
  const Arguments<X> a{
      .rows = quant::rows_of<X>(args),
      .first = args.first.as<int32_t>(),
      .count = args.count.as<int32_t>(),
      .E = static_cast<int>(args.first.dim(0)),
  };
  const int64_t S = args.y.dim(0), groups = fp8_blocks(args.y.dim(1));
  const int processors = cuda::multiprocessors(exec.device.index);
  if (S <= kFewRows) return run_few<X, Swiglu>(exec, a, S);
  // Few groups: one of half a warp is the shortest way.
  const bool few = S * groups * quant::kLanes <= int64_t{processors} * kFewThreads;
  const int64_t of_unit = few ? 2 : 2 * kMostItems;
  const int64_t work = S * ((groups + of_unit - 1) / of_unit) * 32;  // threads
  const GridShape shape = grid_for(work, processors);
  cuda::launch(
      exec,
      "expert_quant",
      {.grid = dim3(static_cast<unsigned>(shape.ctas)), .threads = shape.threads},
      few ? quantise_live<X, Swiglu, 1> : quantise_live<X, Swiglu, kMostItems>,
      a
  );
}

}  // namespace

bool expert_quant_takes_cuda_strided(const Exec&, const ExpertQuant& args) {
  return quant::takes_vectors(args);
}

void expert_quant_cuda_strided(Exec& exec, const ExpertQuant& args) {
  const bool swiglu = args.prologue == FusedQuant::Prologue::swiglu;
  if (args.x.dtype == DType::bf16) {
    swiglu ? run<__nv_bfloat16, true>(exec, args) : run<__nv_bfloat16, false>(exec, args);
  } else {
    swiglu ? run<float, true>(exec, args) : run<float, false>(exec, args);
  }
}

}  // namespace fathom::ops
