// kv_append, row cuda_vec: a CTA per token, which finds its row by bisection; a thread per
// element, or per 16 bytes where nothing is converted.
#include <cuda_fp16.h>

#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/kv_append_rows.h"
#include "fathom/ops/attention/paged_rows.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kThreads = 128;

// One of keys and values; strides and `dim` in elements, or in 16-byte vectors.
template <class T, class C>
struct Side {
  const T* x;
  C* cache;
  int64_t token_stride, page_stride;
  int dim;
};

template <class T, class C>
struct Arguments {
  Side<T, C> sides[2];
  attention::Rows rows;
  int heads, page;
};

__device__ __forceinline__ void convert(const uint4* from, uint4* to) {
  *to = *from;
}
template <class T, class C>
__device__ __forceinline__ void convert(const T* from, C* to) {
  const float v = Vec<T>::load(from);
  if constexpr (std::is_same_v<C, __half>) {
    *to = __float2half_rn(v);
  } else {
    Vec<C>::store(to, v);
  }
}

template <class T, class C>
__global__ void __launch_bounds__(kThreads) append(const Arguments<T, C> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int token = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  T first[2];  // under way while the token's row is found
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    if (thread < a.heads * a.sides[s].dim)
      first[s] = a.sides[s].x[token * a.sides[s].token_stride + thread];
  }
  const int row = attention::row_of(a.rows, token);
  // A step padded by whole tokens may hold some beyond the last row.
  if (token >= a.rows.row_begin[row + 1]) return;
  const int position = attention::position_of(a.rows, row, token);
  const int64_t page = a.rows.pages[a.rows.page_begin[row] + position / a.page];
  const int slot = position % a.page;
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    const Side<T, C>& side = a.sides[s];
    const T* from = side.x + token * side.token_stride;
    C* to = side.cache + page * side.page_stride;
    for (int i = thread; i < a.heads * side.dim; i += kThreads) {
      const int head = i / side.dim, d = i % side.dim;
      const T value = i == thread ? first[s] : from[i];
      convert(&value, to + (int64_t{head} * a.page + slot) * side.dim + d);
    }
  }
}

template <class T, class C>
void run(Exec& exec, const KvAppend& args) {
  const int64_t t_unit = sizeof(T) / info(args.k.dtype).block_bytes;
  const int64_t c_unit = sizeof(C) / info(args.keys.dtype).block_bytes;
  const auto side = [&](const Tensor& x, const Tensor& cache) {
    return Side<T, C>{
        static_cast<const T*>(x.data),
        static_cast<C*>(cache.data),
        x.stride(0) / t_unit,
        cache.stride(0) / c_unit,
        static_cast<int>(x.dim(2) / t_unit)};
  };
  const Arguments<T, C> a{
      .sides = {side(args.k, args.keys), side(args.v, args.values)},
      .rows = attention::rows_of(args.rows),
      .heads = static_cast<int>(args.k.dim(1)),
      .page = static_cast<int>(args.keys.dim(2)),
  };
  cuda::launch(
      exec,
      "kv_append",
      {.grid = dim3(static_cast<unsigned>(args.k.dim(0))), .threads = kThreads},
      append<T, C>,
      a
  );
}

bool wide(const Tensor& t) {
  const int64_t bytes = info(t.dtype).block_bytes;
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) * bytes % 16 == 0 &&
         t.dim(-1) * bytes % 16 == 0;
}

template <class T>
void run_by_cache(Exec& exec, const KvAppend& args) {
  switch (args.keys.dtype) {
    case DType::f32:
      return run<T, float>(exec, args);
    case DType::f16:
      return run<T, __half>(exec, args);
    default:
      return run<T, __nv_bfloat16>(exec, args);
  }
}

}  // namespace

void kv_append_cuda_vec(Exec& exec, const KvAppend& args) {
  if (args.rows.kv_len.dim(0) == 0) return;
  if (args.k.dtype == args.keys.dtype && wide(args.k) && wide(args.v) && wide(args.keys) &&
      wide(args.values)) {
    return run<uint4, uint4>(exec, args);
  }
  args.k.dtype == DType::bf16 ? run_by_cache<__nv_bfloat16>(exec, args)
                              : run_by_cache<float>(exec, args);
}

}  // namespace fathom::ops
