// silu_mul, row cuda_vec: 16 bytes of each operand a thread.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/act/silu_mul_rows.h"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/vec.cuh"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kThreads = 128;

template <class T>
struct Arguments {
  const T* gate;
  const T* up;
  T* y;
  int64_t gate_stride, up_stride, y_stride;
  int columns;
};

__device__ __forceinline__ float silu(float x) {
  return x / (1.0f + __expf(-x));
}

template <class T>
__global__ void __launch_bounds__(kThreads) multiply(const Arguments<T> a) {
  constexpr int kElements = Vec<T>::kElements;
  device::launch_successor();
  device::wait_for_predecessor();
  const int64_t token = blockIdx.x;
  const int column =
      (static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x)) * kElements;
  if (column >= a.columns) return;
  float gate[kElements], up[kElements];
  Vec<T>::unpack(*reinterpret_cast<const uint4*>(a.gate + token * a.gate_stride + column), gate);
  Vec<T>::unpack(*reinterpret_cast<const uint4*>(a.up + token * a.up_stride + column), up);
#pragma unroll
  for (int i = 0; i < kElements; ++i) gate[i] = silu(gate[i]) * up[i];
  *reinterpret_cast<uint4*>(a.y + token * a.y_stride + column) = Vec<T>::pack(gate);
}

// Any width and alignment.
template <class T>
__global__ void __launch_bounds__(kThreads) multiply_any(const Arguments<T> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int64_t token = blockIdx.x;
  const int column = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  if (column >= a.columns) return;
  const float gate = Vec<T>::load(a.gate + token * a.gate_stride + column);
  const float up = Vec<T>::load(a.up + token * a.up_stride + column);
  Vec<T>::store(a.y + token * a.y_stride + column, silu(gate) * up);
}

bool wide(const Tensor& t) {
  const int64_t bytes = info(t.dtype).block_bytes;
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) * bytes % 16 == 0 &&
         t.dim(1) * bytes % 16 == 0;
}

template <class T>
void run(Exec& exec, const SiluMul& args) {
  const Arguments<T> a{
      .gate = static_cast<const T*>(args.gate.data),
      .up = static_cast<const T*>(args.up.data),
      .y = static_cast<T*>(args.y.data),
      .gate_stride = args.gate.stride(0),
      .up_stride = args.up.stride(0),
      .y_stride = args.y.stride(0),
      .columns = static_cast<int>(args.y.dim(1)),
  };
  const bool vectors = wide(args.gate) && wide(args.up) && wide(args.y);
  const int64_t threads = vectors ? a.columns / Vec<T>::kElements : a.columns;
  const dim3 grid(
      static_cast<unsigned>(args.y.dim(0)),
      static_cast<unsigned>((threads + kThreads - 1) / kThreads)
  );
  cuda::launch(
      exec,
      "silu_mul",
      {.grid = grid, .threads = kThreads},
      vectors ? multiply<T> : multiply_any<T>,
      a
  );
}

}  // namespace

void silu_mul_cuda_vec(Exec& exec, const SiluMul& args) {
  args.y.dtype == DType::bf16 ? run<__nv_bfloat16>(exec, args) : run<float>(exec, args);
}

}  // namespace fathom::ops
