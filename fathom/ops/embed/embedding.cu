// embedding, row cuda_vec: a CTA per token and 1024 columns; plain float weights.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/embed/embedding_rows.h"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kThreads = 128;
constexpr int kColumns = 8;  // of a thread

template <class W, class Y>
__global__ void __launch_bounds__(kThreads) lookup(
    const int32_t* tokens, const W* weight, Y* y, int64_t w_stride, int64_t y_stride, int columns
) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int first =
      (static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x)) * kColumns;
  const W* from = weight + tokens[blockIdx.x] * w_stride;
  Y* to = y + blockIdx.x * y_stride;
  float value[kColumns];
#pragma unroll
  for (int i = 0; i < kColumns; ++i)
    if (first + i < columns) value[i] = Vec<W>::load(from + first + i);
#pragma unroll
  for (int i = 0; i < kColumns; ++i)
    if (first + i < columns) Vec<Y>::store(to + first + i, value[i]);
}

// Rows of whole 16-byte vectors.
__global__ void __launch_bounds__(kThreads) copy(
    const int32_t* tokens,
    const uint4* weight,
    uint4* y,
    int64_t w_stride,
    int64_t y_stride,
    int vectors
) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int i = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  if (i < vectors) y[blockIdx.x * y_stride + i] = weight[tokens[blockIdx.x] * w_stride + i];
}

bool wide(const Tensor& t, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) * bytes % 16 == 0 &&
         t.dim(1) * bytes % 16 == 0;
}

template <class W, class Y>
void run(Exec& exec, const Embedding& args) {
  const int64_t columns = args.weight.dim(1), bytes = sizeof(W);
  const auto tokens = static_cast<unsigned>(args.tokens.dim(0));
  const auto parts = [](int64_t threads) {
    return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
  };
  if (std::is_same_v<W, Y> && wide(args.weight, bytes) && wide(args.y, bytes)) {
    const int64_t vectors = columns * bytes / 16;
    cuda::launch(
        exec,
        "embedding",
        {.grid = dim3(tokens, parts(vectors)), .threads = kThreads},
        copy,
        args.tokens.as<int32_t>(),
        static_cast<const uint4*>(args.weight.data),
        static_cast<uint4*>(args.y.data),
        args.weight.stride(0) * bytes / 16,
        args.y.stride(0) * bytes / 16,
        vectors
    );
    return;
  }
  cuda::launch(
      exec,
      "embedding",
      {.grid = dim3(tokens, parts((columns + kColumns - 1) / kColumns)), .threads = kThreads},
      lookup<W, Y>,
      args.tokens.as<int32_t>(),
      static_cast<const W*>(args.weight.data),
      static_cast<Y*>(args.y.data),
      args.weight.stride(0),
      args.y.stride(0),
      columns
  );
}

}  // namespace

bool embedding_takes_cuda_vec(const Exec&, const Embedding& args) {
  return args.weight.dtype == DType::bf16 || args.weight.dtype == DType::f32;
}

void embedding_cuda_vec(Exec& exec, const Embedding& args) {
  const bool half = args.weight.dtype == DType::bf16, half_y = args.y.dtype == DType::bf16;
  if (half) {
    half_y ? run<__nv_bfloat16, __nv_bfloat16>(exec, args) : run<__nv_bfloat16, float>(exec, args);
  } else {
    half_y ? run<float, __nv_bfloat16>(exec, args) : run<float, float>(exec, args);
  }
}

}  // namespace fathom::ops
