// rope, row cuda_vec: a CTA per token, a thread per pair of a head; the token's cosines and sines
// stay in the L1.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/device/vec.cuh"
#include "fathom/ops/rope/rope_rows.h"

namespace fathom::ops {
namespace {

using device::Vec;

constexpr int kThreads = 256;

template <class T>
struct Heads {
  T* data;
  int64_t token_stride, head_stride;
  int count;
};

template <class T>
struct Arguments {
  Heads<T> q, k;
  const int32_t* positions;
  const float* table;
  int64_t table_stride;
  int half;  // pairs of a head
  bool adjacent;
};

template <class T>
__global__ void __launch_bounds__(kThreads) rotate(const Arguments<T> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int64_t token = blockIdx.x;
  const int pairs = (a.q.count + a.k.count) * a.half;
  const int i = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  if (i >= pairs) return;
  const int head = i / a.half, pair = i % a.half;
  const bool of_q = head < a.q.count;
  const Heads<T>& heads = of_q ? a.q : a.k;
  T* x = heads.data + token * heads.token_stride +
         (of_q ? head : head - a.q.count) * heads.head_stride;
  T* first = x + (a.adjacent ? 2 * pair : pair);
  T* second = a.adjacent ? first + 1 : first + a.half;
  const float* table = a.table + a.positions[token] * a.table_stride;
  const float c = __ldg(table + pair), s = __ldg(table + a.half + pair);
  const float u = Vec<T>::load(first), v = Vec<T>::load(second);
  Vec<T>::store(first, u * c - v * s);
  Vec<T>::store(second, v * c + u * s);
}

template <class T>
Heads<T> heads_of(const Tensor& t) {
  return {static_cast<T*>(t.data), t.stride(0), t.stride(1), static_cast<int>(t.dim(1))};
}

template <class T>
void run(Exec& exec, const Rope& args) {
  const Arguments<T> a{
      .q = heads_of<T>(args.q),
      .k = heads_of<T>(args.k),
      .positions = args.positions.as<int32_t>(),
      .table = args.table.as<float>(),
      .table_stride = args.table.stride(0),
      .half = static_cast<int>(args.table.dim(1) / 2),
      .adjacent = args.pairs == RopePairs::adjacent,
  };
  const int pairs = (a.q.count + a.k.count) * a.half;
  const dim3 grid(
      static_cast<unsigned>(args.q.dim(0)), static_cast<unsigned>((pairs + kThreads - 1) / kThreads)
  );
  cuda::launch(exec, "rope", {.grid = grid, .threads = kThreads}, rotate<T>, a);
}

}  // namespace

void rope_cuda_vec(Exec& exec, const Rope& args) {
  args.q.dtype == DType::bf16 ? run<__nv_bfloat16>(exec, args) : run<float>(exec, args);
}

}  // namespace fathom::ops
