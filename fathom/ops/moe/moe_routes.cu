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
constexpr unsigned kGroups = 2;                       // of a thread
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
  int each[kMaxExperts];       // rows of its items but the last
  int first_row[kMaxExperts];  // rows of the experts before
  int warp_total[kThreads / 32];
};

// Up to Most slots of a token, which their loads bring together.
template <int Most>
struct Slots {
  int token, first, count;
  int expert[Most];

  __device__ Slots(const Arguments& a, int of_token, int begin)
      : token(of_token), first(begin), count(min(Most, a.k - begin)) {
    const int32_t* ids = a.ids + token * a.ids_stride + first;
#pragma unroll
    for (int j = 0; j < Most; ++j) expert[j] = j < count ? ids[j] : -1;
  }

  // Whether slot j is a row: it names an expert that no earlier slot of its token names.
  __device__ bool is_row(const Arguments& a, int j) const {
    const int32_t* ids = a.ids + token * a.ids_stride;
    bool row = expert[j] >= 0;
#pragma unroll
    for (int i = 0; i < Most; ++i) row &= i >= j || expert[i] != expert[j];
    for (int i = 0; i < first; ++i) row &= ids[i] != expert[j];
    return row;
  }
};

// f(slots) for a CTA's part of the tokens, dealt to its threads: the same thread each time.
template <int Most, class F>
__device__ void for_each_slots(const Arguments& a, int rank, F f) {
  const int of_token = (a.k + Most - 1) / Most, end = a.T * (rank + 1) / kCluster * of_token;
  for (int i = a.T * rank / kCluster * of_token + static_cast<int>(threadIdx.x); i < end;
       i += kThreads)
    f(Slots<Most>(a, i / of_token, i % of_token * Most));
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
    const int parts = max(items[i], 1), each = ((rows[i] + parts - 1) / parts + 7) / 8 * 8;
    s.first[expert] = item;
    s.each[expert] = each;
    s.first_row[expert] = row;
    for (int j = 0; expert % kCluster == rank && j < items[i]; ++j) {
      r.expert[item + j] = expert;
      r.rows[item + j] = min(each, rows[i] - j * each);
      r.first_row[item + j] = row + j * each;
    }
    item += items[i];
    row += rows[i];
  }
  if (rank == 0 && threadIdx.x == kThreads - 1) *r.items = item;
}

// Rows of a token, whose places among this CTA's stand in r.row.
template <int Most>
__device__ void place_rows(const Arguments& a, const RouteStorage& s, const Slots<Most>& slots) {
  const MoeRoutes& r = a.routes;
  const int32_t* ids = a.ids + slots.token * a.ids_stride;
  const float* weights = a.weights + slots.token * a.weights_stride;
  int* row = r.row + slots.token * a.k + slots.first;
  int position[Most];
  float weight[Most];
#pragma unroll
  for (int j = 0; j < Most; ++j) {
    position[j] = j < slots.count ? row[j] : -1;
    weight[j] = j < slots.count ? weights[slots.first + j] : 0;
  }
#pragma unroll
  for (int j = 0; j < Most; ++j) {
    if (position[j] < 0) continue;
    const int expert = slots.expert[j];
#pragma unroll
    for (int i = j + 1; i < Most; ++i) weight[j] += slots.expert[i] == expert ? weight[i] : 0;
    for (int i = slots.first + Most; i < a.k; ++i) weight[j] += ids[i] == expert ? weights[i] : 0;
    const int at = s.before[expert] + position[j];
    const int inside = at / s.each[expert];  // which of its expert's items
    const int place = (s.first[expert] + inside) * r.width + at - inside * s.each[expert];
    r.token[place] = slots.token;
    r.weight[place] = weight[j];
    row[j] = s.first_row[expert] + at;
  }
}

// By the CTAs of one cluster; a thread takes Most slots at a time.
template <int Most>
__device__ void route(const Arguments& a, RouteStorage& s) {
  const int rank = static_cast<int>(device::cluster_rank());
  for (int e = static_cast<int>(threadIdx.x); e < kMaxExperts; e += kThreads) s.count[e] = 0;
  __syncthreads();
  for_each_slots<Most>(a, rank, [&](const Slots<Most>& slots) {
    int* row = a.routes.row + slots.token * a.k + slots.first;
#pragma unroll
    for (int j = 0; j < Most; ++j) {
      if (j < slots.count)
        row[j] = slots.is_row(a, j) ? atomicAdd(&s.count[slots.expert[j]], 1) : -1;
    }
  });
  device::cluster_barrier();
  lay_out(a, s, rank);
  device::cluster_barrier();  // the counts have been read, and the layout is there
  for_each_slots<Most>(a, rank, [&](const Slots<Most>& slots) { place_rows(a, s, slots); });
}

// Each 16 threads quantise kGroups groups of 128, half of all apart.
__device__ void quantise_x(const Arguments& a) {
  const unsigned groups = static_cast<unsigned>(a.C) / kFp8Block;
  const unsigned items = groups * static_cast<unsigned>(a.T);
  const unsigned apart = (items + kGroups - 1) / kGroups;
  const unsigned first = ((blockIdx.x - kCluster) * kThreads + threadIdx.x) / kLanes;
  const unsigned lane = threadIdx.x % kLanes;
  uint4 in[kGroups];
#pragma unroll
  for (unsigned i = 0; i < kGroups; ++i) {
    const unsigned item = min(first + i * apart, items - 1);
    const __nv_bfloat16* x = a.x + int64_t{item / groups} * a.x_stride;
    in[i] = __ldcg(reinterpret_cast<const uint4*>(x + item % groups * kFp8Block + lane * 8));
  }
#pragma unroll
  for (unsigned i = 0; i < kGroups; ++i) {
    float v[8];
    Vec<__nv_bfloat16>::unpack(in[i], v);
    const float scale = group_scale<kLanes>(v, kEps, a.ue8m0);
    const unsigned item = first + i * apart, group = item % groups;
    if (first >= apart || item >= items) continue;
    const int64_t token = item / groups;
    uint8_t* codes = a.codes + token * a.C + group * kFp8Block + lane * 8;
    *reinterpret_cast<uint2*>(codes) = quantise(v, scale);
    if (lane == 0) a.scale[int64_t{group} * a.scale_columns + token] = scale;
  }
}

__global__ void __launch_bounds__(kThreads, 3) prepare(const Arguments a) {
  device::launch_successor();
  device::wait_for_predecessor();
  if (blockIdx.x < kCluster) {
    __shared__ RouteStorage s;
    if (a.T * a.k <= kThreads * kCluster) {
      route<1>(a, s);
    } else {
      route<4>(a, s);  // more has no registers
    }
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
    const int64_t each = (T * (C / kFp8Block) + kGroups - 1) / kGroups;
    clusters += (each * kLanes + kThreadsOfCluster - 1) / kThreadsOfCluster;
  }
  const cuda::LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(clusters * kCluster)),
      .threads = kThreads,
      .cluster = kCluster};
  cuda::launch(exec, "grouped_moe", shape, prepare, a);
  return input;
}

}  // namespace fathom::ops
