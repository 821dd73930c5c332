// mla_gather, row cuda_vec: a CTA per gathered position, which finds its row by bisection.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/mla_gather_rows.h"
#include "fathom/ops/attention/paged_rows.cuh"
#include "fathom/ops/device/fp8.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/quant/fp8_blocks.h"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kThreads = 128;

// Strides and sizes in elements of T and C, which may be 16-byte vectors.
template <class T, class C>
struct Arguments {
  const int32_t *page_begin, *pages, *from, *begin;
  const C* kv;
  T *latent, *k_rope;
  int64_t latent_stride, rope_stride, page_stride, row_stride;
  int rows, L, R, page;
};

// The row of the step whose positions include output row s: begin ascends.
__device__ __forceinline__ int row_of(const int32_t* begin, int rows, int s) {
  int low = 0, high = rows - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (begin[middle + 1] <= s) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

__device__ __forceinline__ void read(const uint4* row, int i, int, uint4* to) {
  *to = row[i];
}
template <class T, class C>
__device__ __forceinline__ void read(const C* row, int i, int, T* to) {
  Vec<T>::store(to, Vec<C>::load(row + i));
}
// FP8 rows: codes, scales, bf16.
template <class T>
__device__ __forceinline__ void read(const uint8_t* row, int i, int L, T* to) {
  const uint8_t* scales = row + L;
  const float v =
      i < L ? device::unpack_e4m3(row[i]).x * reinterpret_cast<const float*>(scales)[i / kFp8Block]
            : Vec<__nv_bfloat16>::load(
                  reinterpret_cast<const __nv_bfloat16*>(scales + L / 32) + (i - L)
              );
  Vec<T>::store(to, v);
}

template <class T, class C>
__global__ void __launch_bounds__(kThreads) gather(const Arguments<T, C> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int s = static_cast<int>(blockIdx.x);
  const int row = row_of(a.begin, a.rows, s);
  const int position = a.from[row] + s - a.begin[row];
  const int64_t page = a.pages[a.page_begin[row] + position / a.page];
  const C* kv = a.kv + page * a.page_stride + position % a.page * a.row_stride;
  T* latent = a.latent + s * a.latent_stride;
  T* rope = a.k_rope + s * a.rope_stride;
  for (int i = static_cast<int>(threadIdx.x); i < a.L + a.R; i += kThreads)
    read(kv, i, a.L, i < a.L ? latent + i : rope + (i - a.L));
}

template <class T, class C>
void run(Exec& exec, const MlaGather& args) {
  const int64_t t_unit = sizeof(T) / info(args.latent.dtype).block_bytes;
  const int64_t c_unit = sizeof(C) / info(args.kv.dtype).block_bytes;
  const Arguments<T, C> a{
      .page_begin = args.rows.page_begin.as<int32_t>(),
      .pages = args.rows.pages.as<int32_t>(),
      .from = args.from.as<int32_t>(),
      .begin = args.begin.as<int32_t>(),
      .kv = static_cast<const C*>(args.kv.data),
      .latent = static_cast<T*>(args.latent.data),
      .k_rope = static_cast<T*>(args.k_rope.data),
      .latent_stride = args.latent.stride(0) / t_unit,
      .rope_stride = args.k_rope.stride(0) / t_unit,
      .page_stride = args.kv.stride(0) / c_unit,
      .row_stride = args.kv.stride(1) / c_unit,
      .rows = static_cast<int>(args.from.dim(0)),
      .L = static_cast<int>(args.latent.dim(1) / t_unit),
      .R = static_cast<int>(args.k_rope.dim(1) / t_unit),
      .page = static_cast<int>(args.kv.dim(1)),
  };
  cuda::launch(
      exec,
      "mla_gather",
      {.grid = dim3(static_cast<unsigned>(args.latent.dim(0))), .threads = kThreads},
      gather<T, C>,
      a
  );
}

template <class T>
void run_by_cache(Exec& exec, const MlaGather& args) {
  if (args.kv.dtype == DType::u8) return run<T, uint8_t>(exec, args);
  if (args.kv.dtype == DType::f32) return run<T, float>(exec, args);
  run<T, __nv_bfloat16>(exec, args);
}

bool wide(const Tensor& t, int strides) {
  const int64_t bytes = info(t.dtype).block_bytes;
  bool whole = reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.dim(-1) * bytes % 16 == 0;
  for (int i = 0; i < strides; ++i) whole = whole && t.stride(i) * bytes % 16 == 0;
  return whole;
}

}  // namespace

void mla_gather_cuda_vec(Exec& exec, const MlaGather& args) {
  if (args.latent.dim(0) == 0) return;
  if (args.latent.dtype == args.kv.dtype && wide(args.latent, 1) && wide(args.k_rope, 1) &&
      wide(args.kv, 2)) {
    return run<uint4, uint4>(exec, args);
  }
  args.latent.dtype == DType::bf16 ? run_by_cache<__nv_bfloat16>(exec, args)
                                   : run_by_cache<float>(exec, args);
}

}  // namespace fathom::ops
