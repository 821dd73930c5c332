// The first launch of grouped_moe: a cluster of CTAs sorts rows by expert, the others quantise x.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/moe/moe_routes.cuh"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kThreads = 512;
constexpr int kCluster = 8;  // CTAs that sort
constexpr int kMaxExperts = 1024;
constexpr int kExpertsEach = kMaxExperts / kThreads;  // of a thread, side by side
constexpr int kLanes = 16;                            // of a quantised group
constexpr float kEps = 1e-10f;

struct Arguments {
  const int32_t* ids;
  const float* weights;
  int64_t ids_stride, weights_stride;
  int T, k, E;
  MoeRoutes routes;
  const __nv_bfloat16* x;
  int64_t x_stride;
  uint8_t* codes;  // null: x stays as it is
  float* scale;
  int C, scale_columns;
  bool ue8m0;
};

// By expert; rows of the CTAs before this one come before its own.
struct RouteStorage {
  int count[kMaxExperts];      // rows that this CTA found
  int before[kMaxExperts];     // that the CTAs before it found
  int first[kMaxExperts];      // its first item
  int first_row[kMaxExperts];  // rows of the experts before
  int warp_total[kThreads / 32];
};

// Slots of a CTA's part of the tokens, dealt to its threads: the same thread each time.
template <class F>
__device__ void for_each_slot(const Arguments& a, int rank, F f) {
  const int end = a.T * (rank + 1) / kCluster * a.k;
  for (int i = a.T * rank / kCluster * a.k + static_cast<int>(threadIdx.x); i < end;
       i += kThreads) {
    const int token = i / a.k;
    f(i, token, i - token * a.k);
  }
}

// The expert of a slot when it is a row: no earlier slot of its token names the same. Else -1.
__device__ int expert_of(const int32_t* of_token, int slot) {
  const int expert = of_token[slot];
  for (int s = 0; s < slot; ++s) {
    if (of_token[s] == expert) return -1;
  }
  return expert;
}

// Exclusive prefix sum over the CTA's threads.
__device__ int prefix(int value, RouteStorage& s) {
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
  for (int w = 0; w < kThreads / 32; ++w) before += w < warp ? s.warp_total[w] : 0;
  __syncthreads();
  return before + sum - value;
}

// From all CTAs' counts: where each expert's items and rows begin, and the table of items, of which
// each CTA writes its part.
__device__ void lay_out(const Arguments& a, RouteStorage& s, int rank) {
  const MoeRoutes& r = a.routes;
  int rows[kExpertsEach], items[kExpertsEach], all_rows = 0, all_items = 0;
#pragma unroll
  for (int i = 0; i < kExpertsEach; ++i) {
    const int expert = static_cast<int>(threadIdx.x) * kExpertsEach + i;
    int total = 0, before = 0;
#pragma unroll
    for (int c = 0; c < kCluster; ++c) {
      const int found = device::peer_object(s.count, static_cast<uint32_t>(c))[expert];
      before += c < rank ? found : 0;
      total += found;
    }
    s.before[expert] = before;
    all_rows += rows[i] = total;
    all_items += items[i] = (total + r.width - 1) / r.width;
  }
  int row = prefix(all_rows, s), item = prefix(all_items, s);
#pragma unroll
  for (int i = 0; i < kExpertsEach; ++i) {
    const int expert = static_cast<int>(threadIdx.x) * kExpertsEach + i;
    s.first[expert] = item;
    s.first_row[expert] = row;
    for (int j = 0; expert % kCluster == rank && j < items[i]; ++j) {
      r.expert[item + j] = expert;
      r.rows[item + j] = min(r.width, rows[i] - j * r.width);
      r.first_row[item + j] = row + j * r.width;
    }
    item += items[i];
    row += rows[i];
  }
  if (rank == 0 && threadIdx.x == kThreads - 1) *r.items = item;
}

// By the CTAs of one cluster.
__device__ void route(const Arguments& a) {
  __shared__ RouteStorage s;
  const int rank = static_cast<int>(device::cluster_rank());
  const MoeRoutes& r = a.routes;
  for (int e = static_cast<int>(threadIdx.x); e < kMaxExperts; e += kThreads) s.count[e] = 0;
  __syncthreads();
  for_each_slot(a, rank, [&](int i, int token, int slot) {
    const int expert = expert_of(a.ids + token * a.ids_stride, slot);
    r.row[i] = expert < 0 ? -1 : atomicAdd(&s.count[expert], 1);
  });
  device::cluster_barrier();
  lay_out(a, s, rank);
  device::cluster_barrier();  // the counts have been read, and the layout is there
  for_each_slot(a, rank, [&](int i, int token, int slot) {
    if (r.row[i] < 0) return;
    const int32_t* ids = a.ids + token * a.ids_stride;
    const float* weights = a.weights + token * a.weights_stride;
    const int expert = ids[slot], position = s.before[expert] + r.row[i];
    float weight = weights[slot];
    for (int later = slot + 1; later < a.k; ++later) {
      if (ids[later] == expert) weight += weights[later];
    }
    const int place = s.first[expert] * r.width + position;
    r.token[place] = token;
    r.weight[place] = weight;
    r.row[i] = s.first_row[expert] + position;
  });
}

__device__ void quantise_x(const Arguments& a) {
  const unsigned groups = static_cast<unsigned>(a.C) / kFp8Block;
  const unsigned items = groups * static_cast<unsigned>(a.T);
  const unsigned item = ((blockIdx.x - kCluster) * kThreads + threadIdx.x) / kLanes;
  const unsigned inside = min(item, items - 1), group = inside % groups;
  const int64_t token = inside / groups, k = group * kFp8Block + threadIdx.x % kLanes * 8;
  float v[8];
  Vec<__nv_bfloat16>::unpack(
      __ldcg(reinterpret_cast<const uint4*>(a.x + token * a.x_stride + k)), v
  );
  float amax = kEps;
#pragma unroll
  for (int i = 0; i < 8; ++i) amax = fmaxf(amax, fabsf(v[i]));
  const float scale = group_scale(device::warp_max<kLanes>(amax), a.ue8m0);
  if (item >= items) return;
  *reinterpret_cast<uint2*>(a.codes + token * a.C + k) = quantise(v, scale);
  if (threadIdx.x % kLanes == 0) a.scale[int64_t{group} * a.scale_columns + token] = scale;
}

__global__ void __launch_bounds__(kThreads, 4) prepare(const Arguments a) {
  device::launch_successor();
  device::wait_for_predecessor();
  if (blockIdx.x < kCluster) {
    route(a);
  } else {
    quantise_x(a);
  }
}

}  // namespace

MoeChoice choice_of(const GroupedMoe& args) {
  return {
      .ids = args.ids.as<int32_t>(),
      .weights = args.weights.as<float>(),
      .ids_stride = args.ids.stride(0),
      .weights_stride = args.weights.stride(0),
      .T = static_cast<int>(args.x.dim(0)),
      .k = static_cast<int>(args.ids.dim(1)),
  };
}

MoeRoutes allocate_routes(const Exec& exec, const GroupedMoe& args, int width) {
  const int64_t rows = args.ids.elements(), E = args.gate_up.data.dim(0);
  MoeRoutes r{.width = width};
  r.max_items = static_cast<int>(std::min(E, rows) + rows / width);
  const auto ints = [&](int64_t n) { return exec.workspace->alloc(DType::i32, {n}).as<int>(); };
  r.items = ints(1);
  r.expert = ints(r.max_items);
  r.rows = ints(r.max_items);
  r.token = ints(r.places());
  r.weight = exec.workspace->alloc(DType::f32, {r.places()}).as<float>();
  r.first_row = ints(r.max_items);
  r.row = ints(rows);
  return r;
}

MoeInput route_and_quantise(Exec& exec, const GroupedMoe& args, const MoeRoutes& routes) {
  const int64_t T = args.x.dim(0), C = args.x.dim(1);
  MoeInput input{
      .rows = static_cast<const uint8_t*>(args.x.data), .row_bytes = args.x.stride(0) * 2};
  Arguments a{
      .ids = args.ids.as<int32_t>(),
      .weights = args.weights.as<float>(),
      .ids_stride = args.ids.stride(0),
      .weights_stride = args.weights.stride(0),
      .T = static_cast<int>(T),
      .k = static_cast<int>(args.ids.dim(1)),
      .E = static_cast<int>(args.gate_up.data.dim(0)),
      .routes = routes,
      .x = static_cast<const __nv_bfloat16*>(args.x.data),
      .x_stride = args.x.stride(0),
      .codes = nullptr,
      .scale = nullptr,
      .C = static_cast<int>(C),
      .scale_columns = static_cast<int>((T + 3) / 4 * 4),
      .ue8m0 = args.ue8m0,
  };
  int64_t clusters = 1;
  if (args.quantise_activations) {
    a.codes = exec.workspace->alloc(DType::u8, {T, C}).as<uint8_t>();
    a.scale = exec.workspace->alloc(DType::f32, {C / kFp8Block, a.scale_columns}).as<float>();
    input = {.rows = a.codes, .row_bytes = C, .scale = a.scale, .scale_columns = a.scale_columns};
    constexpr int64_t kThreadsOfCluster = int64_t{kThreads} * kCluster;
    clusters += (T * (C / kFp8Block) * kLanes + kThreadsOfCluster - 1) / kThreadsOfCluster;
  }
  const cuda::LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(clusters * kCluster)),
      .threads = kThreads,
      .cluster = kCluster};
  cuda::launch(exec, "grouped_moe", shape, prepare, a);
  return input;
}

}  // namespace fathom::ops
