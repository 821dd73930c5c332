// A CTA a token: its values stay in registers from the largest magnitude to the codes, as many as
// fit; the others are read twice.
#include "fathom/ops/quant/row_codes.h"

#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/quant/int8_rows.h"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kValues = 8;  // of a thread at once
constexpr int kHeld = 2;    // such parts of a thread that stay in registers
constexpr int kMostThreads = 1024;

template <class X>
struct Arguments {
  const X* x;
  int8_t* codes;
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

__device__ float block_max(float v) {
  __shared__ float most[kMostThreads / 32];
  v = device::warp_max(v);
  if (threadIdx.x % 32 == 0) most[threadIdx.x / 32] = v;
  __syncthreads();
  const unsigned lane = threadIdx.x % 32;
  return device::warp_max(lane < blockDim.x / 32 ? most[lane] : 0.0f);
}

__device__ __forceinline__ uint32_t four_codes(const float* v, float inverse) {
  uint32_t codes = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int code = max(-127, min(127, __float2int_rn(__fmul_rn(v[i], inverse))));
    codes |= (static_cast<uint32_t>(code) & 0xffu) << (8 * i);
  }
  return codes;
}

template <class X>
__global__ void __launch_bounds__(kMostThreads) round_row(const Arguments<X> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int64_t token = blockIdx.x;
  const X* x = a.x + token * a.x_stride;
  int8_t* codes = a.codes + token * a.K;
  const int step = static_cast<int>(blockDim.x) * kValues;
  const int first = static_cast<int>(threadIdx.x) * kValues;
  float held[kHeld][kValues] = {}, other[kValues], amax = 0;
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    if (first + j * step < a.K) load(a, x + first + j * step, held[j]);
  }
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) amax = fmaxf(amax, fabsf(held[j][i]));
  }
  for (int k = first + kHeld * step; k < a.K; k += step) {
    load(a, x + k, other);
#pragma unroll
    for (int i = 0; i < kValues; ++i) amax = fmaxf(amax, fabsf(other[i]));
  }
  const float most = fmaxf(block_max(amax), kInt8Eps), inverse = __fdiv_rn(kInt8Max, most);
  if (threadIdx.x == 0) a.scale[token] = __fdiv_rn(most, kInt8Max);
  const auto put = [&](int k, const float(&v)[kValues]) {
    *reinterpret_cast<uint2*>(codes + k) = {four_codes(v, inverse), four_codes(v + 4, inverse)};
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

template <class X>
void run(Exec& exec, std::string_view op, const Tensor& x, const RowCodes& to) {
  const int64_t K = x.dim(1);
  const Arguments<X> a{
      .x = static_cast<const X*>(x.data),
      .codes = to.codes.as<int8_t>(),
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
      round_row<X>,
      a
  );
}

}  // namespace

RowCodes round_rows(Exec& exec, std::string_view op, const Tensor& x) {
  const RowCodes to{
      .codes = exec.workspace->alloc(DType::i8, {x.dim(0), x.dim(1)}),
      .scale = exec.workspace->alloc(DType::f32, {x.dim(0)})};
  x.dtype == DType::bf16 ? run<__nv_bfloat16>(exec, op, x, to) : run<float>(exec, op, x, to);
  return to;
}

}  // namespace fathom::ops
