// A row of rms_norm in a CTA's registers: what the kernels that normalise whole rows share, so that
// they agree bit for bit.
#pragma once

#include "fathom/core/exec.h"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops::norm {

using device::Vec;

template <class T, class W>
struct Rows {
  const T* x;
  T* residual;  // null: none
  const W* weight;
  int64_t x_stride, residual_stride;
  int columns;
  float eps;
};

constexpr int kMaxWarps = 32;

// The CTA's sum of v, over however many warps it has.
__device__ __forceinline__ float sum_of_block(float v) {
  __shared__ float partial[kMaxWarps];
  v = device::warp_sum(v);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  const unsigned lane = threadIdx.x % 32;
  return device::warp_sum(lane < blockDim.x / 32 ? partial[lane] : 0.0f);
}

// Thread i holds vectors i, i + threads, ...: `Vectors` of 16 bytes of x at most, whose columns are
// whole.
template <class T, class W, int Vectors>
struct Row {
  static constexpr int kElements = Vec<T>::kElements;
  float weight[Vectors][kElements] = {}, value[Vectors][kElements] = {};

  static __device__ __forceinline__ int column(int v) {
    return static_cast<int>(threadIdx.x + static_cast<unsigned>(v) * blockDim.x) * kElements;
  }

  // Before the predecessor is waited for.
  __device__ __forceinline__ void load_weights(const Rows<T, W>& a) {
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
      if (column(v) < a.columns) device::load_floats<kElements>(a.weight + column(v), weight[v]);
    }
  }

  // value = norm(x + residual) * weight, not rounded; the sum goes to residual. By all threads.
  __device__ __forceinline__ void normalise(const Rows<T, W>& a, int64_t token) {
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
      if (residual != nullptr) add(added[v], residual + column(v), value[v]);
#pragma unroll
      for (int i = 0; i < kElements; ++i) squares += value[v][i] * value[v][i];
    }
    const float scale = rsqrtf(sum_of_block(squares) / static_cast<float>(a.columns) + a.eps);
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
#pragma unroll
      for (int i = 0; i < kElements; ++i) value[v][i] *= scale * weight[v][i];
    }
  }

 private:
  // sum += added, rounded as it is stored.
  static __device__ __forceinline__ void add(uint4 added, T* to, float* sum) {
    float r[kElements];
    Vec<T>::unpack(added, r);
#pragma unroll
    for (int i = 0; i < kElements; ++i) sum[i] += r[i];
    const uint4 rounded = Vec<T>::pack(sum);
    *reinterpret_cast<uint4*>(to) = rounded;
    Vec<T>::unpack(rounded, sum);
  }
};

inline bool aligned(const Tensor& t) {
  const int64_t bytes = info(t.dtype).block_bytes;
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 &&
         (t.rank < 2 || t.stride(0) * bytes % 16 == 0);
}

// Whether a row fits the registers of a CTA.
inline bool fits(const Tensor& x) {
  const int64_t vector = 16 / info(x.dtype).block_bytes;
  return x.dim(1) % vector == 0 && x.dim(1) / vector <= 4096;
}

// Calls f with the vectors of a thread, a constant, and the threads of a CTA. Few tokens: a vector
// a thread is the shortest path. Many: two give more bytes in flight.
template <class F>
void with_shape(const Tensor& x, const F& f) {
  constexpr int64_t kManyTokens = 512;
  const int64_t vectors = x.dim(1) * info(x.dtype).block_bytes / 16;
  const auto call = [&](auto each) {
    const int64_t threads = (vectors + each.value - 1) / each.value;
    f(each, static_cast<int>((threads + 31) / 32 * 32));
  };
  if (vectors <= 1024 && x.dim(0) < kManyTokens) {
    call(std::integral_constant<int, 1>{});
  } else if (vectors <= 2048) {
    call(std::integral_constant<int, 2>{});
  } else {
    call(std::integral_constant<int, 4>{});
  }
}

// Calls f with null pointers of the element types of an op's x and weight.
template <class F>
void with_types(DType x, DType weight, const F& f) {
  const auto of_x = [&](auto* element) {
    weight == DType::bf16 ? f(element, static_cast<__nv_bfloat16*>(nullptr))
                          : f(element, static_cast<float*>(nullptr));
  };
  x == DType::bf16 ? of_x(static_cast<__nv_bfloat16*>(nullptr))
                   : of_x(static_cast<float*>(nullptr));
}

// Args: RmsNorm or RmsNormQuant.
template <class T, class W, class Args>
Rows<T, W> rows_of(const Args& args) {
  return {
      .x = static_cast<const T*>(args.x.data),
      .residual = static_cast<T*>(args.residual.data),
      .weight = static_cast<const W*>(args.weight.data),
      .x_stride = args.x.stride(0),
      .residual_stride = args.residual.defined() ? args.residual.stride(0) : 0,
      .columns = static_cast<int>(args.x.dim(1)),
      .eps = args.eps,
  };
}

}  // namespace fathom::ops::norm
