// rope_append, row cuda_vec: eight pairs of a head, or eight values, a thread.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/paged_rows.cuh"
#include "fathom/ops/attention/rope_append_rows.h"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops {
namespace {

using device::Vec;
using Half = __nv_bfloat16;

constexpr int kThreads = 128;
constexpr int kPairs = 8;  // of a thread

struct Arguments {
  attention::Rows rows;
  const int32_t* positions;
  const float* table;
  int64_t table_stride;
  Half* q;
  Half* k;
  const Half* v;
  Half* keys;
  Half* values;
  int64_t q_stride, k_stride, v_stride, key_page, value_page;  // of tokens, of pages
  int heads, key_heads, dim, value_dim, page;
  bool adjacent;
};

// Where the token's key or value of a head goes.
__device__ __forceinline__ int64_t
place(const Arguments& a, int token, int64_t page_stride, int dim) {
  const int row = attention::row_of(a.rows, token);
  const int position = attention::position_of(a.rows, row, token);
  const int64_t page = a.rows.pages[a.rows.page_begin[row] + position / a.page];
  return page * page_stride + int64_t{position % a.page} * dim;
}

__device__ void rotate(const Arguments& a, int token, int item) {
  const int per_head = a.dim / (2 * kPairs), head = item / per_head;
  const int pair = item % per_head * kPairs, half = a.dim / 2;
  const bool of_q = head < a.heads;
  Half* x = of_q ? a.q + token * a.q_stride + head * a.dim
                 : a.k + token * a.k_stride + (head - a.heads) * a.dim;
  const int first = a.adjacent ? 2 * pair : pair, second = a.adjacent ? first + 8 : first + half;
  const uint4 low = *reinterpret_cast<const uint4*>(x + first);
  const uint4 high = *reinterpret_cast<const uint4*>(x + second);
  const float* table = a.table + a.positions[token] * a.table_stride + pair;
  float c[kPairs], s[kPairs], u[kPairs], v[kPairs];
  device::load_floats<kPairs>(table, c);
  device::load_floats<kPairs>(table + half, s);
  float l[8], h[8];
  Vec<Half>::unpack(low, l);
  Vec<Half>::unpack(high, h);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const float p = !a.adjacent ? l[i] : i < 4 ? l[2 * i % 8] : h[2 * i % 8];
    const float q = !a.adjacent ? h[i] : i < 4 ? l[(2 * i + 1) % 8] : h[(2 * i + 1) % 8];
    u[i] = p * c[i] - q * s[i];
    v[i] = q * c[i] + p * s[i];
  }
  uint4 first_half = Vec<Half>::pack(u), second_half = Vec<Half>::pack(v);
  if (a.adjacent) {
#pragma unroll
    for (int i = 0; i < kPairs / 2; ++i) {
      l[2 * i] = u[i];
      l[2 * i + 1] = v[i];
      h[2 * i] = u[i + 4];
      h[2 * i + 1] = v[i + 4];
    }
    first_half = Vec<Half>::pack(l);
    second_half = Vec<Half>::pack(h);
  }
  *reinterpret_cast<uint4*>(x + first) = first_half;
  *reinterpret_cast<uint4*>(x + second) = second_half;
  if (of_q) return;
  Half* key =
      a.keys + place(a, token, a.key_page, a.dim) + int64_t{head - a.heads} * a.page * a.dim;
  *reinterpret_cast<uint4*>(key + first) = first_half;
  *reinterpret_cast<uint4*>(key + second) = second_half;
}

__device__ void append_value(const Arguments& a, int token, int item) {
  const int per_head = a.value_dim / 8, head = item / per_head, d = item % per_head * 8;
  const Half* from = a.v + token * a.v_stride + head * a.value_dim + d;
  Half* to = a.values + place(a, token, a.value_page, a.value_dim) +
             int64_t{head} * a.page * a.value_dim + d;
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
}

__global__ void __launch_bounds__(kThreads) rotate_and_append(const Arguments a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int token = static_cast<int>(blockIdx.x);
  const int item = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  const int rotations = (a.heads + a.key_heads) * a.dim / (2 * kPairs);
  if (item < rotations) {
    rotate(a, token, item);
  } else if (item < rotations + a.key_heads * a.value_dim / 8) {
    append_value(a, token, item - rotations);
  }
}

bool aligned(const Tensor& t) {
  return t.dtype == DType::bf16 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 &&
         t.stride(0) % 8 == 0 && t.dim(-1) % 8 == 0;
}

bool heads_contiguous(const Tensor& t) {
  return t.stride(1) == t.dim(2);
}

}  // namespace

bool rope_append_takes_cuda_vec(const Exec&, const RopeAppend& args) {
  return aligned(args.q) && aligned(args.k) && aligned(args.v) && aligned(args.keys) &&
         aligned(args.values) && heads_contiguous(args.q) && heads_contiguous(args.k) &&
         heads_contiguous(args.v) && args.table.dim(1) % (2 * kPairs) == 0 &&
         args.table.stride(0) % 4 == 0 && reinterpret_cast<uintptr_t>(args.table.data) % 16 == 0;
}

void rope_append_cuda_vec(Exec& exec, const RopeAppend& args) {
  const Arguments a{
      .rows = attention::rows_of(args.rows),
      .positions = args.positions.as<int32_t>(),
      .table = args.table.as<float>(),
      .table_stride = args.table.stride(0),
      .q = static_cast<Half*>(args.q.data),
      .k = static_cast<Half*>(args.k.data),
      .v = static_cast<const Half*>(args.v.data),
      .keys = static_cast<Half*>(args.keys.data),
      .values = static_cast<Half*>(args.values.data),
      .q_stride = args.q.stride(0),
      .k_stride = args.k.stride(0),
      .v_stride = args.v.stride(0),
      .key_page = args.keys.stride(0),
      .value_page = args.values.stride(0),
      .heads = static_cast<int>(args.q.dim(1)),
      .key_heads = static_cast<int>(args.k.dim(1)),
      .dim = static_cast<int>(args.q.dim(2)),
      .value_dim = static_cast<int>(args.v.dim(2)),
      .page = static_cast<int>(args.keys.dim(2)),
      .adjacent = args.pairs == RopePairs::adjacent,
  };
  const int items = (a.heads + a.key_heads) * a.dim / (2 * kPairs) + a.key_heads * a.value_dim / 8;
  const dim3 grid(
      static_cast<unsigned>(args.q.dim(0)), static_cast<unsigned>((items + kThreads - 1) / kThreads)
  );
  cuda::launch(exec, "rope_append", {.grid = grid, .threads = kThreads}, rotate_and_append, a);
}

}  // namespace fathom::ops
