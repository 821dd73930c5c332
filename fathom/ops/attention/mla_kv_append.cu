// mla_kv_append, row cuda_vec: a CTA per token, which finds its row by bisection. Float rows: a
// thread per element, or per 16 bytes where nothing is converted; FP8 rows: a warp per 128 values.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/mla_kv_append_rows.h"
#include "fathom/ops/attention/paged_rows.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kThreads = 128;
constexpr float kEps = 1e-10f;

// Strides and sizes in elements of T and C, which may be 16-byte vectors.
template <class T, class C>
struct Arguments {
  attention::Rows rows;
  const T *latent, *k_rope;
  C* kv;
  int64_t latent_stride, rope_stride, page_stride, row_stride;
  int L, R, page;
};

// Where the token's row of the cache begins; null for a token beyond the last row.
template <class T, class C>
__device__ C* place_of(const Arguments<T, C>& a, int token) {
  const int row = attention::row_of(a.rows, token);
  if (token >= a.rows.row_begin[row + 1]) return nullptr;
  const int position = attention::position_of(a.rows, row, token);
  const int64_t page = a.rows.pages[a.rows.page_begin[row] + position / a.page];
  return a.kv + page * a.page_stride + position % a.page * a.row_stride;
}

__device__ __forceinline__ void convert(const uint4* from, uint4* to) {
  *to = *from;
}
template <class T, class C>
__device__ __forceinline__ void convert(const T* from, C* to) {
  Vec<C>::store(to, Vec<T>::load(from));
}

template <class T, class C>
__global__ void __launch_bounds__(kThreads) append(const Arguments<T, C> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int token = static_cast<int>(blockIdx.x);
  C* to = place_of(a, token);
  if (to == nullptr) return;
  const T* latent = a.latent + token * a.latent_stride;
  const T* rope = a.k_rope + token * a.rope_stride;
  for (int i = static_cast<int>(threadIdx.x); i < a.L + a.R; i += kThreads)
    convert(i < a.L ? latent + i : rope + (i - a.L), to + i);
}

// Bytes: L codes, L / 128 scales, R bf16.
template <class T>
__global__ void __launch_bounds__(kThreads) append_fp8(const Arguments<T, uint8_t> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int token = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  uint8_t* to = place_of(a, token);
  if (to == nullptr) return;
  auto* scales = reinterpret_cast<float*>(to + a.L);
  auto* rope = reinterpret_cast<__nv_bfloat16*>(to + a.L + a.L / 32);
  const T* latent = a.latent + token * a.latent_stride;
  for (int group = thread / 32; group < a.L / static_cast<int>(kFp8Block); group += kThreads / 32) {
    const int first = group * static_cast<int>(kFp8Block) + thread % 32 * 4;
    float v[4], amax = kEps;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[i] = Vec<T>::load(latent + first + i);
      amax = fmaxf(amax, fabsf(v[i]));
    }
    const float scale = group_scale(device::warp_max(amax), false);
    *reinterpret_cast<uint32_t*>(to + first) =
        device::pack_e4m3(v[0] / scale, v[1] / scale, v[2] / scale, v[3] / scale);
    if (thread % 32 == 0) scales[group] = scale;
  }
  for (int i = thread; i < a.R; i += kThreads)
    Vec<__nv_bfloat16>::store(rope + i, Vec<T>::load(a.k_rope + token * a.rope_stride + i));
}

template <class T, class C>
Arguments<T, C> arguments(const MlaKvAppend& args) {
  const int64_t t_unit = sizeof(T) / info(args.latent.dtype).block_bytes;
  const int64_t c_unit = sizeof(C) / info(args.kv.dtype).block_bytes;
  return {
      .rows = attention::rows_of(args.rows),
      .latent = static_cast<const T*>(args.latent.data),
      .k_rope = static_cast<const T*>(args.k_rope.data),
      .kv = static_cast<C*>(args.kv.data),
      .latent_stride = args.latent.stride(0) / t_unit,
      .rope_stride = args.k_rope.stride(0) / t_unit,
      .page_stride = args.kv.stride(0) / c_unit,
      .row_stride = args.kv.stride(1) / c_unit,
      .L = static_cast<int>(args.latent.dim(1) / t_unit),
      .R = static_cast<int>(args.k_rope.dim(1) / t_unit),
      .page = static_cast<int>(args.kv.dim(1)),
  };
}

bool wide(const Tensor& t, int64_t strides) {
  const int64_t bytes = info(t.dtype).block_bytes;
  bool whole = reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.dim(-1) * bytes % 16 == 0;
  for (int64_t i = 0; i < strides; ++i)
    whole = whole && t.stride(static_cast<int>(i)) * bytes % 16 == 0;
  return whole;
}

template <class T, class C>
void run(Exec& exec, const MlaKvAppend& args, void (*kernel)(const Arguments<T, C>)) {
  cuda::launch(
      exec,
      "mla_kv_append",
      {.grid = dim3(static_cast<unsigned>(args.latent.dim(0))), .threads = kThreads},
      kernel,
      arguments<T, C>(args)
  );
}

template <class T>
void run_by_cache(Exec& exec, const MlaKvAppend& args) {
  if (args.kv.dtype == DType::u8) return run(exec, args, append_fp8<T>);
  if (args.kv.dtype == DType::f32) return run(exec, args, append<T, float>);
  run(exec, args, append<T, __nv_bfloat16>);
}

}  // namespace

// FP8 rows are written by words.
bool mla_kv_append_takes_cuda_vec(const Exec&, const MlaKvAppend& args) {
  return args.kv.dtype != DType::u8 || (reinterpret_cast<uintptr_t>(args.kv.data) % 4 == 0 &&
                                        args.kv.stride(0) % 4 == 0 && args.kv.stride(1) % 4 == 0);
}

void mla_kv_append_cuda_vec(Exec& exec, const MlaKvAppend& args) {
  if (args.rows.kv_len.dim(0) == 0) return;
  if (args.latent.dtype == args.kv.dtype && wide(args.latent, 1) && wide(args.k_rope, 1) &&
      wide(args.kv, 2)) {
    return run(exec, args, append<uint4, uint4>);
  }
  args.latent.dtype == DType::bf16 ? run_by_cache<__nv_bfloat16>(exec, args)
                                   : run_by_cache<float>(exec, args);
}

}  // namespace fathom::ops
