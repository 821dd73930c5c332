// A CTA a token: its values stay in registers from the largest magnitude to the codes, as many as
// fit; the others are read twice.
#include "fathom/ops/quant/row_codes.h"

#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/quant/fp8_rows.h"
#include "fathom/ops/quant/int8_rows.h"
#include "fathom/ops/quant/quantise_group.cuh"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kValues = 8;  // of a thread at once
constexpr int kHeld = 2;    // such parts of a thread that stay in registers
constexpr int kMostThreads = 1024;

template <class X>
struct Arguments {
  const X* x;
  uint8_t* codes;
  float* scale;
  int64_t x_stride;
  int K;
  bool aligned;
};

template <class X>
__device__ __forceinline__ void load(const Arguments<X>& a, const X* from, float (&v)[kValues]) {
  if (a.aligned) {
#pragma unroll
    for (int i = 0; i < kValues; i += Vec<X>::kElements)
      Vec<X>::unpack(__ldcg(reinterpret_cast<const uint4*>(from + i)), v + i);
  } else {
#pragma unroll
    for (int i = 0; i < kValues; ++i) v[i] = Vec<X>::load(from + i);
  }
}

// Magnitudes as integers are in the order of the floats, and NaN is the largest.
__device__ __forceinline__ uint32_t magnitude(float v) {
  return __float_as_uint(v) & 0x7fffffffu;
}

__device__ float block_max(uint32_t v) {
  __shared__ uint32_t most[kMostThreads / 32];
  v = __reduce_max_sync(device::kFullWarp, v);
  if (threadIdx.x % 32 == 0) most[threadIdx.x / 32] = v;
  __syncthreads();
  const unsigned lane = threadIdx.x % 32;
  v = __reduce_max_sync(device::kFullWarp, lane < blockDim.x / 32 ? most[lane] : 0u);
  return __uint_as_float(v);
}

// A token's scale and how its values become codes, as Int8Scale and Fp8RowScale do; of what is not
// finite, a scale of that kind.
struct Int8Codes {
  float scale, inverse;

  __device__ explicit Int8Codes(float most) : scale(most / kInt8Max), inverse(kInt8Max / most) {}
  static constexpr float kEps = kInt8Eps;

  __device__ __forceinline__ uint32_t four(const float* v) const {
    uint32_t codes = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int code = max(-127, min(127, __float2int_rn(__fmul_rn(v[i], inverse))));
      codes |= (static_cast<uint32_t>(code) & 0xffu) << (8 * i);
    }
    return codes;
  }
  __device__ __forceinline__ uint2 eight(float (&v)[kValues]) const {
    return {four(v), four(v + 4)};
  }
};

struct Fp8Codes {
  float scale;

  __device__ explicit Fp8Codes(float most) : scale(most / kFp8Max) {}
  static constexpr float kEps = kFp8RowEps;

  __device__ __forceinline__ uint2 eight(float (&v)[kValues]) const { return quantise(v, scale); }
};

template <class Codes, class X>
__global__ void __launch_bounds__(kMostThreads) round_row(const Arguments<X> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int64_t token = blockIdx.x;
  const X* x = a.x + token * a.x_stride;
  uint8_t* codes = a.codes + token * a.K;
  const int step = static_cast<int>(blockDim.x) * kValues;
  const int first = static_cast<int>(threadIdx.x) * kValues;
  float held[kHeld][kValues] = {}, other[kValues];
  uint32_t amax = 0;
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    if (first + j * step < a.K) load(a, x + first + j * step, held[j]);
  }
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) amax = max(amax, magnitude(held[j][i]));
  }
  for (int k = first + kHeld * step; k < a.K; k += step) {
    load(a, x + k, other);
#pragma unroll
    for (int i = 0; i < kValues; ++i) amax = max(amax, magnitude(other[i]));
  }
  const float found = block_max(amax);
  const Codes rounded(found < Codes::kEps ? Codes::kEps : found);
  if (threadIdx.x == 0) a.scale[token] = rounded.scale;
  const auto put = [&](int k, float(&v)[kValues]) {
    *reinterpret_cast<uint2*>(codes + k) = rounded.eight(v);
  };
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    if (first + j * step < a.K) put(first + j * step, held[j]);
  }
  for (int k = first + kHeld * step; k < a.K; k += step) {
    load(a, x + k, other);
    put(k, other);
  }
}

template <class Codes, class X>
void run(Exec& exec, std::string_view op, const Tensor& x, const RowCodes& to) {
  const int64_t K = x.dim(1);
  const Arguments<X> a{
      .x = static_cast<const X*>(x.data),
      .codes = static_cast<uint8_t*>(to.codes.data),
      .scale = to.scale.as<float>(),
      .x_stride = x.stride(0),
      .K = static_cast<int>(K),
      .aligned = reinterpret_cast<uintptr_t>(x.data) % 16 == 0 &&
                 x.stride(0) * info(x.dtype).block_bytes % 16 == 0,
  };
  // Many tokens: smaller CTAs, more of them at once.
  const int64_t each = x.dim(0) >= 512 ? kHeld * kValues : kValues;
  const int64_t threads = std::min<int64_t>((K / each + 31) / 32 * 32, kMostThreads);
  cuda::launch(
      exec,
      op,
      {.grid = dim3(static_cast<unsigned>(x.dim(0))), .threads = static_cast<int>(threads)},
      round_row<Codes, X>,
      a
  );
}

}  // namespace

RowCodes round_rows(Exec& exec, std::string_view op, const Tensor& x, DType form) {
  const RowCodes to{
      .codes = exec.workspace->alloc(form, {x.dim(0), x.dim(1)}),
      .scale = exec.workspace->alloc(DType::f32, {x.dim(0)})};
  const bool bf16 = x.dtype == DType::bf16;
  if (form == DType::i8) {
    bf16 ? run<Int8Codes, __nv_bfloat16>(exec, op, x, to) : run<Int8Codes, float>(exec, op, x, to);
  } else {
    bf16 ? run<Fp8Codes, __nv_bfloat16>(exec, op, x, to) : run<Fp8Codes, float>(exec, op, x, to);
  }
  return to;
}

}  // namespace fathom::ops
