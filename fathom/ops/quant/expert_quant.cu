// expert_quant, row cuda_strided: a grid of as many CTAs as run at once strides over all groups of
// live rows, half a warp a group. Each CTA sums the experts' counts once and then finds a row's
// expert by halving.
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

template <class X>
struct Arguments {
  quant::Rows<X> rows;
  const int32_t *first, *count;
  int E;
};

struct SharedStorage {
  int end[kMaxExperts];    // live rows of the experts up to this one
  int shift[kMaxExperts];  // from a live row's number to its row
  int warp_total[32];
};

// By all threads; the number of live rows.
template <class X>
__device__ int lay_out(const Arguments<X>& a, SharedStorage& s) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = thread % 32, warp = thread / 32, warps = threads / 32;
  int before = 0;
  for (int from = 0; from < a.E; from += threads) {
    const int e = from + thread;
    const int own = e < a.E ? __ldcg(a.count + e) : 0;
    int sum = own;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int below = __shfl_up_sync(device::kFullWarp, sum, d);
      sum += lane >= d ? below : 0;
    }
    if (lane == 31) s.warp_total[warp] = sum;
    __syncthreads();
    int all = 0;
    for (int w = 0; w < warps; ++w) {
      sum += w < warp ? s.warp_total[w] : 0;
      all += s.warp_total[w];
    }
    if (e < a.E) {
      s.end[e] = before + sum;
      s.shift[e] = __ldcg(a.first + e) - (before + sum - own);
    }
    before += all;
    __syncthreads();
  }
  return before;
}

__device__ int row_of(const SharedStorage& s, int E, int live) {
  int low = 0, high = E - 1;  // the first expert whose rows end behind this one
  while (low < high) {
    const int middle = (low + high) / 2;
    if (live < s.end[middle]) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return live + s.shift[low];
}

template <class X, bool Swiglu>
__global__ void __launch_bounds__(512) quantise_live(const Arguments<X> a) {
  __shared__ SharedStorage s;
  device::launch_successor();
  device::wait_for_predecessor();
  constexpr unsigned kLanes = quant::kLanes;
  const unsigned live = static_cast<unsigned>(lay_out(a, s));
  const auto groups = static_cast<unsigned>(a.rows.K / kFp8Block);
  const unsigned items = live * groups, step = gridDim.x * (blockDim.x / kLanes);
  const unsigned at = blockIdx.x * (blockDim.x / kLanes) + threadIdx.x / kLanes;
  // Both halves of a warp shuffle together.
  for (unsigned item = at; item - at % 2 < items; item += step) {
    const unsigned inside = min(item, items - 1), number = inside / groups;
    const int row = row_of(s, a.E, static_cast<int>(number));
    const auto group = static_cast<int>(inside - number * groups);
    quant::Lane<X, Swiglu> lane;
    lane.load(a.rows, row, group);
    lane.quantise(a.rows, row, group, item < items);
  }
}

template <class X, bool Swiglu>
void run(const Exec& exec, const ExpertQuant& args) {
  const Arguments<X> a{
      .rows = quant::rows_of<X>(args),
      .first = args.first.as<int32_t>(),
      .count = args.count.as<int32_t>(),
      .E = static_cast<int>(args.first.dim(0)),
  };
  const int64_t work = args.y.dim(0) * fp8_blocks(args.y.dim(1)) * quant::kLanes;
  const GridShape shape = grid_for(work, cuda::multiprocessors(exec.device.index));
  cuda::launch(
      exec,
      "expert_quant",
      {.grid = dim3(static_cast<unsigned>(shape.ctas)), .threads = shape.threads},
      quantise_live<X, Swiglu>,
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
