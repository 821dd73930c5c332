// rms_norm, row cuda_vec: a CTA per token, the row in registers, statistics in float, one pass over
// memory. Weights are loaded before the predecessor is waited for.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/norm/rms_norm_rows.h"

namespace fathom::ops {
namespace {

using device::Vec;

template <class T, class W>
struct Arguments {
  const T* x;
  T* residual;  // null: none
  T* y;
  const W* weight;
  int64_t x_stride, residual_stride, y_stride;
  int columns;
  float eps;
};

constexpr int kMaxWarps = 32;

// The CTA's sum of v, over however many warps it has.
__device__ float sum_of_block(float v) {
  __shared__ float partial[kMaxWarps];
  v = device::warp_sum(v);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  float total = 0;
  for (unsigned i = 0; i < blockDim.x / 32; ++i) total += partial[i];
  return total;
}

// Thread i holds vectors i, i + threads, ...: `Vectors` of them at most.
template <class T, class W, int Vectors>
__global__ void __launch_bounds__(1024) norm_rows(const Arguments<T, W> a) {
  constexpr int kElements = Vec<T>::kElements;
  const int64_t token = blockIdx.x;
  float weight[Vectors][kElements], value[Vectors][kElements];
  const auto column = [&](int v) {
    return static_cast<int>(threadIdx.x + static_cast<unsigned>(v) * blockDim.x) * kElements;
  };
#pragma unroll
  for (int v = 0; v < Vectors; ++v) {
    if (column(v) < a.columns) device::load_floats<kElements>(a.weight + column(v), weight[v]);
  }
  device::launch_successor();
  device::wait_for_predecessor();

  const T* x = a.x + token * a.x_stride;
  T* residual = a.residual == nullptr ? nullptr : a.residual + token * a.residual_stride;
  uint4 loaded[Vectors], added[Vectors];
#pragma unroll
  for (int v = 0; v < Vectors; ++v) {
    if (column(v) >= a.columns) continue;
    loaded[v] = *reinterpret_cast<const uint4*>(x + column(v));
    if (residual != nullptr) added[v] = *reinterpret_cast<const uint4*>(residual + column(v));
  }
  float squares = 0;
#pragma unroll
  for (int v = 0; v < Vectors; ++v) {
    if (column(v) >= a.columns) continue;
    Vec<T>::unpack(loaded[v], value[v]);
    if (residual != nullptr) {
      float r[kElements];
      Vec<T>::unpack(added[v], r);
#pragma unroll
      for (int i = 0; i < kElements; ++i) value[v][i] += r[i];
      const uint4 rounded = Vec<T>::pack(value[v]);
      *reinterpret_cast<uint4*>(residual + column(v)) = rounded;
      Vec<T>::unpack(rounded, value[v]);
    }
#pragma unroll
    for (int i = 0; i < kElements; ++i) squares += value[v][i] * value[v][i];
  }
  const float scale = rsqrtf(sum_of_block(squares) / static_cast<float>(a.columns) + a.eps);
  T* y = a.y + token * a.y_stride;
#pragma unroll
  for (int v = 0; v < Vectors; ++v) {
    if (column(v) >= a.columns) continue;
#pragma unroll
    for (int i = 0; i < kElements; ++i) value[v][i] *= scale * weight[v][i];
    *reinterpret_cast<uint4*>(y + column(v)) = Vec<T>::pack(value[v]);
  }
}

// Any width and alignment; two passes.
template <class T, class W>
__global__ void __launch_bounds__(256) norm_rows_any(const Arguments<T, W> a) {
  device::wait_for_predecessor();
  const int64_t token = blockIdx.x;
  const T* x = a.x + token * a.x_stride;
  T* residual = a.residual == nullptr ? nullptr : a.residual + token * a.residual_stride;
  const T* source = residual == nullptr ? x : residual;
  float squares = 0;
  for (int c = static_cast<int>(threadIdx.x); c < a.columns; c += 256) {
    if (residual != nullptr)
      Vec<T>::store(residual + c, Vec<T>::load(x + c) + Vec<T>::load(residual + c));
    const float v = Vec<T>::load(source + c);
    squares += v * v;
  }
  const float scale = rsqrtf(sum_of_block(squares) / static_cast<float>(a.columns) + a.eps);
  T* y = a.y + token * a.y_stride;
  for (int c = static_cast<int>(threadIdx.x); c < a.columns; c += 256)
    Vec<T>::store(y + c, Vec<T>::load(source + c) * scale * Vec<W>::load(a.weight + c));
}

bool aligned(const Tensor& t, int64_t element_bytes) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 &&
         (t.rank < 2 || t.stride(0) * element_bytes % 16 == 0);
}

template <class T, class W>
void run(const Exec& exec, const RmsNorm& args) {
  constexpr int64_t kElements = Vec<T>::kElements;
  const bool add = args.residual.defined();
  const Arguments<T, W> a{
      .x = static_cast<const T*>(args.x.data),
      .residual = static_cast<T*>(args.residual.data),
      .y = static_cast<T*>(args.y.data),
      .weight = static_cast<const W*>(args.weight.data),
      .x_stride = args.x.stride(0),
      .residual_stride = add ? args.residual.stride(0) : 0,
      .y_stride = args.y.stride(0),
      .columns = static_cast<int>(args.x.dim(1)),
      .eps = args.eps,
  };
  const int64_t tokens = args.x.dim(0);
  const dim3 grid(static_cast<unsigned>(tokens));
  const int64_t vectors = a.columns / kElements;
  const bool whole = a.columns % kElements == 0 && vectors <= 4096 && aligned(args.x, sizeof(T)) &&
                     aligned(args.y, sizeof(T)) && aligned(args.weight, sizeof(W)) &&
                     (!add || aligned(args.residual, sizeof(T)));
  if (!whole) {
    cuda::launch(exec, "rms_norm", {.grid = grid, .threads = 256}, norm_rows_any<T, W>, a);
    return;
  }
  // Few tokens: a vector a thread is the shortest path. Many: two give more bytes in flight.
  constexpr int64_t kManyTokens = 512;
  const auto launch = [&](auto kernel, int64_t vectors_per_thread) {
    const int64_t threads = (vectors + vectors_per_thread - 1) / vectors_per_thread;
    const int rounded = static_cast<int>((threads + 31) / 32 * 32);
    cuda::launch(exec, "rms_norm", {.grid = grid, .threads = rounded}, kernel, a);
  };
  if (vectors <= 1024 && tokens < kManyTokens) {
    launch(norm_rows<T, W, 1>, 1);
  } else if (vectors <= 2048) {
    launch(norm_rows<T, W, 2>, 2);
  } else {
    launch(norm_rows<T, W, 4>, 4);
  }
}

}  // namespace

void rms_norm_cuda_vec(Exec& exec, const RmsNorm& args) {
  const bool half = args.x.dtype == DType::bf16;
  const bool half_weight = args.weight.dtype == DType::bf16;
  if (half) {
    half_weight ? run<__nv_bfloat16, __nv_bfloat16>(exec, args)
                : run<__nv_bfloat16, float>(exec, args);
  } else {
    half_weight ? run<float, __nv_bfloat16>(exec, args) : run<float, float>(exec, args);
  }
}

}  // namespace fathom::ops
