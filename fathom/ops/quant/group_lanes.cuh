// Groups of 128 values by half a warp each, eight values a lane: what the kernels that quantise
// rows in memory share.
#pragma once

#include "fathom/core/tensor.h"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops::quant {

using device::Vec;

constexpr int kLanes = 16;  // of a group
constexpr int kValues = 8;  // of a lane

template <class X>
struct Rows {
  const X* x;
  uint8_t* y;
  float* scale;
  int64_t x_stride, y_stride, scale_stride;
  int K;
  float eps;
  bool ue8m0;
};

// A lane's values of a group, as they lie in memory; behind SwiGLU both of its operands.
template <class X, bool Swiglu>
class Lane {
 public:
  __device__ __forceinline__ void load(const Rows<X>& a, int64_t row, int group) {
    const X* from = a.x + row * a.x_stride + group * kFp8Block + column();
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
      raw_[i] = device::load_streaming(from + i * Vec<X>::kElements);
    if constexpr (Swiglu) {
#pragma unroll
      for (int i = 0; i < kVectors; ++i)
        raw_[kVectors + i] = device::load_streaming(from + a.K + i * Vec<X>::kElements);
    }
  }

  // The group's codes and scale. By all lanes of a warp; `inside`: of a group that there is.
  __device__ __forceinline__ void quantise(const Rows<X>& a, int64_t row, int group, bool inside)
      const {
    float v[kValues];
    values(v);
    const float scale = group_scale<kLanes>(v, a.eps, a.ue8m0);
    if (!inside) return;
    const uint2 codes = ops::quantise(v, scale);
    *reinterpret_cast<uint2*>(a.y + row * a.y_stride + group * kFp8Block + column()) = codes;
    if (threadIdx.x % kLanes == 0) a.scale[group * a.scale_stride + row] = scale;
  }

 private:
  static constexpr int kVectors = kValues / Vec<X>::kElements;

  static __device__ __forceinline__ int column() {
    return static_cast<int>(threadIdx.x) % kLanes * kValues;
  }
  __device__ __forceinline__ void values(float (&v)[kValues]) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) Vec<X>::unpack(raw_[i], v + i * Vec<X>::kElements);
    if constexpr (Swiglu) {
      float up[kValues];
#pragma unroll
      for (int i = 0; i < kVectors; ++i)
        Vec<X>::unpack(raw_[kVectors + i], up + i * Vec<X>::kElements);
#pragma unroll
      for (int i = 0; i < kValues; ++i) v[i] = silu(v[i]) * up[i];
    }
  }

  uint4 raw_[(Swiglu ? 2 : 1) * kVectors];
};

// Args: FusedQuant or ExpertQuant.
template <class X, class Args>
Rows<X> rows_of(const Args& args) {
  return {
      .x = static_cast<const X*>(args.x.data),
      .y = args.y.template as<uint8_t>(),
      .scale = args.scale.template as<float>(),
      .x_stride = args.x.stride(0),
      .y_stride = args.y.stride(0),
      .scale_stride = args.scale.stride(0),
      .K = static_cast<int>(args.y.dim(1)),
      .eps = args.eps,
      .ue8m0 = args.ue8m0,
  };
}

// Whole groups, 16 bytes at a time, fewer than 2^31 of them.
template <class Args>
bool takes_vectors(const Args& args) {
  const auto aligned = [](const Tensor& t, int64_t to) {
    return reinterpret_cast<uintptr_t>(t.data) % static_cast<size_t>(to) == 0 &&
           t.stride(0) * info(t.dtype).block_bytes % to == 0;
  };
  const int64_t T = args.y.dim(0), K = args.y.dim(1);
  return K % kFp8Block == 0 && aligned(args.x, 16) && aligned(args.y, 8) &&
         T * fp8_blocks(K) < int64_t{1} << 31;
}

}  // namespace fathom::ops::quant
