// qk_norm, row cuda_vec: a warp per head.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/reduce.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/norm/qk_norm_rows.h"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kWarps = 4;

template <class T, class W>
struct Arguments {
  T* q;
  T* k;
  const W* q_weight;
  const W* k_weight;
  int64_t q_stride, k_stride, q_head_stride, k_head_stride;
  int q_heads, heads, dim;
  float eps;
};

template <class T, class W>
__global__ void __launch_bounds__(32 * kWarps) normalise(const Arguments<T, W> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int64_t token = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (head >= a.heads) return;
  const bool of_q = head < a.q_heads;
  T* x = of_q ? a.q + token * a.q_stride + head * a.q_head_stride
              : a.k + token * a.k_stride + (head - a.q_heads) * a.k_head_stride;
  const W* weight = of_q ? a.q_weight : a.k_weight;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float squares = 0;
  for (int d = lane; d < a.dim; d += 32) {
    const float v = Vec<T>::load(x + d);
    squares += v * v;
  }
  const float scale = rsqrtf(device::warp_sum(squares) / static_cast<float>(a.dim) + a.eps);
  for (int d = lane; d < a.dim; d += 32)
    Vec<T>::store(x + d, Vec<T>::load(x + d) * scale * Vec<W>::load(weight + d));
}

template <class T, class W>
void run(Exec& exec, const QkNorm& args) {
  const Arguments<T, W> a{
      .q = static_cast<T*>(args.q.data),
      .k = static_cast<T*>(args.k.data),
      .q_weight = static_cast<const W*>(args.q_weight.data),
      .k_weight = static_cast<const W*>(args.k_weight.data),
      .q_stride = args.q.stride(0),
      .k_stride = args.k.stride(0),
      .q_head_stride = args.q.stride(1),
      .k_head_stride = args.k.stride(1),
      .q_heads = static_cast<int>(args.q.dim(1)),
      .heads = static_cast<int>(args.q.dim(1) + args.k.dim(1)),
      .dim = static_cast<int>(args.q.dim(2)),
      .eps = args.eps,
  };
  const dim3 grid(
      static_cast<unsigned>(args.q.dim(0)), static_cast<unsigned>((a.heads + kWarps - 1) / kWarps)
  );
  cuda::launch(exec, "qk_norm", {.grid = grid, .threads = 32 * kWarps}, normalise<T, W>, a);
}

}  // namespace

bool qk_norm_takes_cuda_vec(const Exec&, const QkNorm& args) {
  return args.q_weight.dtype == DType::f32 && args.k_weight.dtype == DType::f32;
}

void qk_norm_cuda_vec(Exec& exec, const QkNorm& args) {
  args.q.dtype == DType::bf16 ? run<__nv_bfloat16, float>(exec, args)
                              : run<float, float>(exec, args);
}

}  // namespace fathom::ops
