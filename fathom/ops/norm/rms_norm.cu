// rms_norm, row cuda_vec: a CTA per token, the row in registers, statistics in float, one pass over
// memory. Weights are loaded before the predecessor is waited for.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/norm/norm_row.cuh"
#include "fathom/ops/norm/rms_norm_rows.h"

namespace fathom::ops {
namespace {

using device::Vec;

template <class T>
struct Output {
  T* y;
  int64_t stride;
};

template <class T, class W, int Vectors>
__global__ void __launch_bounds__(1024) norm_rows(const norm::Rows<T, W> a, const Output<T> out) {
  using Row = norm::Row<T, W, Vectors>;
  const int64_t token = blockIdx.x;
  Row row;
  row.load_weights(a);
  device::launch_successor();
  device::wait_for_predecessor();
  row.normalise(a, token);
  T* y = out.y + token * out.stride;
#pragma unroll
  for (int v = 0; v < Vectors; ++v) {
    if (Row::column(v) < a.columns)
      *reinterpret_cast<uint4*>(y + Row::column(v)) = Vec<T>::pack(row.value[v]);
  }
}

// Any width and alignment; two passes.
template <class T, class W>
__global__ void __launch_bounds__(256)
    norm_rows_any(const norm::Rows<T, W> a, const Output<T> out) {
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
  const float mean = norm::sum_of_block(squares) / static_cast<float>(a.columns);
  const float scale = rsqrtf(mean + a.eps);
  T* y = out.y + token * out.stride;
  for (int c = static_cast<int>(threadIdx.x); c < a.columns; c += 256)
    Vec<T>::store(y + c, Vec<T>::load(source + c) * scale * Vec<W>::load(a.weight + c));
}

}  // namespace

void rms_norm_cuda_vec(Exec& exec, const RmsNorm& args) {
  const dim3 grid(static_cast<unsigned>(args.x.dim(0)));
  const bool whole = norm::fits(args.x) && norm::aligned(args.x) && norm::aligned(args.y) &&
                     norm::aligned(args.weight) &&
                     (!args.residual.defined() || norm::aligned(args.residual));
  norm::with_types(args.x.dtype, args.weight.dtype, [&](auto* x_type, auto* weight_type) {
    using T = std::remove_pointer_t<decltype(x_type)>;
    using W = std::remove_pointer_t<decltype(weight_type)>;
    const norm::Rows<T, W> rows = norm::rows_of<T, W>(args);
    const Output<T> out{static_cast<T*>(args.y.data), args.y.stride(0)};
    const auto launch = [&](auto kernel, int threads) {
      cuda::launch(exec, "rms_norm", {.grid = grid, .threads = threads}, kernel, rows, out);
    };
    if (!whole) return launch(norm_rows_any<T, W>, 256);
    norm::with_shape(args.x, [&](auto vectors, int threads) {
      launch(norm_rows<T, W, vectors.value>, threads);
    });
  });
}

}  // namespace fathom::ops
