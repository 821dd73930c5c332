// mla_expand, row cuda_vec: a CTA per position and group of heads, a thread per element or per 16
// bytes.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/attention/mla_expand_rows.h"
#include "fathom/ops/device/ptx.cuh"

namespace fathom::ops {
namespace {

constexpr int kThreads = 256;
constexpr int kHeads = 16;  // of a CTA

// Strides and sizes in elements of T, which may be 16-byte vectors.
template <class T>
struct Arguments {
  const T *kv, *k_rope;
  T *keys, *values;
  int64_t kv_stride, rope_stride;
  int H, N, R, Dv;
};

template <class T>
__global__ void __launch_bounds__(kThreads) expand(const Arguments<T> a) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int64_t s = blockIdx.x;
  const int first = static_cast<int>(blockIdx.y) * kHeads, heads = min(kHeads, a.H - first);
  const int D = a.N + a.R, width = D + a.Dv;
  const T* kv = a.kv + s * a.kv_stride;
  const T* rope = a.k_rope + s * a.rope_stride;
  for (int i = static_cast<int>(threadIdx.x); i < heads * width; i += kThreads) {
    const int head = first + i / width, d = i % width;
    const T* from = kv + int64_t{head} * (a.N + a.Dv);
    if (d < D) {
      a.keys[(s * a.H + head) * D + d] = d < a.N ? from[d] : rope[d - a.N];
    } else {
      a.values[(s * a.H + head) * a.Dv + d - D] = from[d - a.R];
    }
  }
}

template <class T>
void run(Exec& exec, const MlaExpand& args) {
  const int64_t unit = sizeof(T) / info(args.kv.dtype).block_bytes;
  const int64_t R = args.k_rope.dim(1);
  const Arguments<T> a{
      .kv = static_cast<const T*>(args.kv.data),
      .k_rope = static_cast<const T*>(args.k_rope.data),
      .keys = static_cast<T*>(args.keys.data),
      .values = static_cast<T*>(args.values.data),
      .kv_stride = args.kv.stride(0) / unit,
      .rope_stride = args.k_rope.stride(0) / unit,
      .H = static_cast<int>(args.keys.dim(1)),
      .N = static_cast<int>((args.keys.dim(2) - R) / unit),
      .R = static_cast<int>(R / unit),
      .Dv = static_cast<int>(args.values.dim(2) / unit),
  };
  const dim3 grid(
      static_cast<unsigned>(args.kv.dim(0)), static_cast<unsigned>((a.H + kHeads - 1) / kHeads)
  );
  cuda::launch(exec, "mla_expand", {.grid = grid, .threads = kThreads}, expand<T>, a);
}

}  // namespace

void mla_expand_cuda_vec(Exec& exec, const MlaExpand& args) {
  const int64_t bytes = info(args.kv.dtype).block_bytes, R = args.k_rope.dim(1);
  const auto whole = [&](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) * bytes % 16 == 0;
  };
  const auto vectors = [&](int64_t n) { return n * bytes % 16 == 0; };
  if (whole(args.kv) && whole(args.k_rope) && whole(args.keys) && whole(args.values) &&
      vectors(R) && vectors(args.keys.dim(2)) && vectors(args.values.dim(2))) {
    return run<uint4>(exec, args);
  }
  bytes == 2 ? run<uint16_t>(exec, args) : run<uint32_t>(exec, args);
}

}  // namespace fathom::ops
