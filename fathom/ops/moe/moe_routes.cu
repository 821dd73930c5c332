// The first launch of grouped_moe: CTA 0 sorts rows by expert, the others quantise x.
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

constexpr int kThreads = 1024;
constexpr int kMaxExperts = 1024;
constexpr int kLanes = 16;  // of a quantised group
constexpr float kEps = 1e-10f;
constexpr int64_t kMostStaged = 160 << 10;

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
  bool staged;  // the ids fit into shared memory
  bool ue8m0;
};

struct RouteStorage {
  int count[kMaxExperts];  // rows of an expert, then rows placed
  int first[kMaxExperts];  // its first item
  int warp_total[kThreads / 32];
};

// ids of token t at [t * k]; in shared memory where they fit.
struct Ids {
  const Arguments& a;
  const int32_t* staged;

  __device__ int operator()(int token, int slot) const {
    return staged != nullptr ? staged[token * a.k + slot]
                             : __ldcg(a.ids + token * a.ids_stride + slot);
  }
  // Names an expert, and no earlier slot of its token names the same.
  __device__ bool is_row(int token, int slot) const {
    const int expert = (*this)(token, slot);
    for (int s = 0; s < slot; ++s) {
      if ((*this)(token, s) == expert) return false;
    }
    return expert >= 0;
  }
};

// f(slot index, token, slot, expert) for each row.
template <class F>
__device__ void for_each_row(const Arguments& a, const Ids& ids, F f) {
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < a.T * a.k; i += kThreads) {
    const int token = i / a.k, slot = i - token * a.k;
    if (ids.is_row(token, slot)) f(i, token, slot, ids(token, slot));
  }
}

// Exclusive prefix sum over the CTA's threads; `total` gets the sum of all.
__device__ int prefix(int value, RouteStorage& s, int& total) {
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
  total = 0;
  for (int w = 0; w < kThreads / 32; ++w) {
    before += w < warp ? s.warp_total[w] : 0;
    total += s.warp_total[w];
  }
  return before + sum - value;
}

__device__ void route(const Arguments& a, int32_t* staged) {
  __shared__ RouteStorage s;
  const int thread = static_cast<int>(threadIdx.x);
  const MoeRoutes& r = a.routes;
  const Ids ids{a, a.staged ? staged : nullptr};
  s.count[thread] = 0;
  for (int i = thread; i < a.T * a.k; i += kThreads) {
    if (a.staged) staged[i] = __ldcg(a.ids + i / a.k * a.ids_stride + i % a.k);
    r.place[i] = -1;
  }
  __syncthreads();
  for_each_row(a, ids, [&](int, int, int, int expert) { atomicAdd(&s.count[expert], 1); });
  __syncthreads();
  const int rows = thread < a.E ? s.count[thread] : 0;
  const int items = (rows + r.width - 1) / r.width;
  int total = 0;
  const int first = prefix(items, s, total);
  s.first[thread] = first;
  s.count[thread] = 0;
  for (int i = 0; i < items; ++i) {
    r.expert[first + i] = thread;
    r.rows[first + i] = min(r.width, rows - i * r.width);
  }
  for (int i = thread; i < total * r.width; i += kThreads) {
    r.token[i] = -1;
    r.weight[i] = 0;
  }
  if (thread == 0) *r.items = total;
  __syncthreads();
  for_each_row(a, ids, [&](int i, int token, int slot, int expert) {
    const float* weights = a.weights + token * a.weights_stride;
    float weight = __ldcg(weights + slot);
    const int place = s.first[expert] * r.width + atomicAdd(&s.count[expert], 1);
    for (int later = slot + 1; later < a.k; ++later) {
      if (ids(token, later) == expert) weight += __ldcg(weights + later);
    }
    r.token[place] = token;
    r.weight[place] = weight;
    r.place[i] = place;
  });
}

__device__ void quantise_x(const Arguments& a) {
  const int groups = a.C / static_cast<int>(kFp8Block);
  const int64_t items = int64_t{groups} * a.T;
  const int64_t item = (int64_t{blockIdx.x - 1} * kThreads + threadIdx.x) / kLanes;
  const int group = static_cast<int>(min(item, items - 1) / a.T);
  const int64_t token = min(item, items - 1) - int64_t{group} * a.T;
  const int64_t k = group * kFp8Block + threadIdx.x % kLanes * 8;
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

__global__ void __launch_bounds__(kThreads, 2) prepare(const Arguments a) {
  extern __shared__ int32_t staged_ids[];
  device::launch_successor();
  device::wait_for_predecessor();
  if (blockIdx.x == 0) {
    route(a, staged_ids);
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
  if (has_few_routes(args)) return r;
  const auto ints = [&](int64_t n) { return exec.workspace->alloc(DType::i32, {n}).as<int>(); };
  r.items = ints(1);
  r.expert = ints(r.max_items);
  r.rows = ints(r.max_items);
  r.token = ints(r.places());
  r.weight = exec.workspace->alloc(DType::f32, {r.places()}).as<float>();
  r.place = ints(rows);
  return r;
}

MoeInput route_and_quantise(Exec& exec, const GroupedMoe& args, const MoeRoutes& routes) {
  const int64_t T = args.x.dim(0), C = args.x.dim(1);
  MoeInput input{
      .rows = static_cast<const uint8_t*>(args.x.data), .row_bytes = args.x.stride(0) * 2};
  if (routes.items == nullptr) return input;
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
      .staged = args.ids.elements() * 4 <= kMostStaged,
      .ue8m0 = args.ue8m0,
  };
  int64_t ctas = 1;
  if (args.quantise_activations) {
    a.codes = exec.workspace->alloc(DType::u8, {T, C}).as<uint8_t>();
    a.scale = exec.workspace->alloc(DType::f32, {C / kFp8Block, a.scale_columns}).as<float>();
    input = {.rows = a.codes, .row_bytes = C, .scale = a.scale, .scale_columns = a.scale_columns};
    ctas += (T * (C / kFp8Block) * kLanes + kThreads - 1) / kThreads;
  }
  const cuda::LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(ctas)),
      .threads = kThreads,
      .shared_bytes = a.staged ? static_cast<int>(args.ids.elements() * 4) : 0};
  cuda::launch(exec, "grouped_moe", shape, prepare, a);
  return input;
}

}  // namespace fathom::ops
