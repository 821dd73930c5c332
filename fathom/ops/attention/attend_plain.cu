// A warp per query and head, its lanes over the head's elements, one key after another.
#include <cuda_fp16.h>

#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/attend_plain.h"
#include "fathom/ops/attention/paged_rows.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kWarps = 4;
constexpr int kMost = 8;  // elements of a lane

struct Arguments {
  attention::Rows rows;
  const void* q;
  const void* keys;
  const void* values;
  const float* sinks;  // null: none
  void* y;
  float* lse;  // null: not wanted
  int64_t lse_stride, q_stride, y_stride, key_page, value_page;
  DType dtype, cache;
  int heads, group, page, key_dim, value_dim, window;
  bool causal;
  float scale;
};

__device__ __forceinline__ float load(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(data)[i];
  if (dtype == DType::bf16)
    return Vec<__nv_bfloat16>::load(static_cast<const __nv_bfloat16*>(data) + i);
  return __half2float(static_cast<const __half*>(data)[i]);
}

__device__ __forceinline__ void store(void* data, DType dtype, int64_t i, float v) {
  if (dtype == DType::f32) {
    static_cast<float*>(data)[i] = v;
  } else {
    Vec<__nv_bfloat16>::store(static_cast<__nv_bfloat16*>(data) + i, v);
  }
}

__global__ void __launch_bounds__(32 * kWarps) attend(const Arguments a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int token = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x) % 32;
  const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (head >= a.heads || token < a.rows.row_begin[0] || token >= a.rows.row_begin[a.rows.count]) {
    return;
  }
  const int row = attention::row_of(a.rows, token);
  const int position = attention::position_of(a.rows, row, token);
  const int32_t* pages = a.rows.pages + a.rows.page_begin[row];
  const int first = a.causal && a.window > 0 ? max(0, position - a.window + 1) : 0;
  const int last = a.causal ? position : a.rows.kv_len[row] - 1;
  float query[kMost], sum[kMost];
#pragma unroll
  for (int i = 0; i < kMost; ++i) {
    const int d = lane + 32 * i;
    query[i] = d < a.key_dim
                   ? load(a.q, a.dtype, token * a.q_stride + int64_t{head} * a.key_dim + d)
                   : 0.0f;
    sum[i] = 0;
  }
  float maximum = a.sinks == nullptr ? -INFINITY : a.sinks[head];
  float total = a.sinks == nullptr ? 0.0f : 1.0f;
  for (int j = first; j <= last; ++j) {
    const int64_t page = pages[j / a.page];
    const int64_t place = int64_t{head / a.group} * a.page + j % a.page;
    float score = 0;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      const int d = lane + 32 * i;
      if (d < a.key_dim)
        score += query[i] * load(a.keys, a.cache, page * a.key_page + place * a.key_dim + d);
    }
    score = device::warp_sum(score) * a.scale;
    const float raised = fmaxf(maximum, score);
    const float kept = __expf(maximum - raised), weight = __expf(score - raised);
    maximum = raised;
    total = total * kept + weight;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      const int d = lane + 32 * i;
      if (d < a.value_dim) {
        const float v = load(a.values, a.cache, page * a.value_page + place * a.value_dim + d);
        sum[i] = sum[i] * kept + weight * v;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kMost; ++i) {
    const int d = lane + 32 * i;
    if (d < a.value_dim)
      store(
          a.y,
          a.dtype,
          token * a.y_stride + int64_t{head} * a.value_dim + d,
          total > 0 ? sum[i] / total : 0.0f
      );
  }
  if (lane == 0 && a.lse != nullptr)
    a.lse[token * a.lse_stride + head] = total > 0 ? maximum + logf(total) : -INFINITY;
}

}  // namespace

bool attend_plain_takes(const Exec&, const PagedAttention& args) {
  return args.keys.dim(3) <= 32 * kMost && args.values.dim(3) <= 32 * kMost;
}

void attend_plain(Exec& exec, const PagedAttention& args) {
  const Arguments a{
      .rows = attention::rows_of(args.rows),
      .q = args.q.data,
      .keys = args.keys.data,
      .values = args.values.data,
      .sinks = args.sinks.defined() ? args.sinks.as<float>() : nullptr,
      .y = args.y.data,
      .lse = args.lse.defined() ? args.lse.as<float>() : nullptr,
      .lse_stride = args.lse.defined() ? args.lse.stride(0) : 0,
      .q_stride = args.q.stride(0),
      .y_stride = args.y.stride(0),
      .key_page = args.keys.stride(0),
      .value_page = args.values.stride(0),
      .dtype = args.q.dtype,
      .cache = args.keys.dtype,
      .heads = static_cast<int>(args.q.dim(1)),
      .group = static_cast<int>(args.q.dim(1) / args.keys.dim(1)),
      .page = static_cast<int>(args.keys.dim(2)),
      .key_dim = static_cast<int>(args.keys.dim(3)),
      .value_dim = static_cast<int>(args.values.dim(3)),
      .window = static_cast<int>(args.window),
      .causal = args.causal,
      .scale = args.scale,
  };
  const dim3 grid(
      static_cast<unsigned>(args.q.dim(0)), static_cast<unsigned>((a.heads + kWarps - 1) / kWarps)
  );
  cuda::launch(exec, "attention", {.grid = grid, .threads = 32 * kWarps}, attend, a);
}

}  // namespace fathom::ops
