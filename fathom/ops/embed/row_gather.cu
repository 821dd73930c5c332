// row_gather, row cuda_vec: a CTA per row; 16 bytes a thread where alignment allows it.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/embed/row_gather_rows.h"

namespace fathom::ops {
namespace {

constexpr int kThreads = 256;

// Strides and sizes in units of T.
template <class T>
__global__ void __launch_bounds__(kThreads
) gather(const T* x, const int32_t* rows, T* y, int64_t x_stride, int64_t y_stride, int64_t units) {
  device::launch_successor();
  device::wait_for_predecessor();
  const T* from = x + rows[blockIdx.x] * x_stride;
  T* to = y + blockIdx.x * y_stride;
  for (int64_t i = threadIdx.x; i < units; i += kThreads) to[i] = from[i];
}

template <class T>
void run(Exec& exec, const RowGather& args) {
  const int64_t bytes = info(args.x.dtype).block_bytes, unit = sizeof(T);
  cuda::launch(
      exec,
      "row_gather",
      {.grid = dim3(static_cast<unsigned>(args.rows.dim(0))), .threads = kThreads},
      gather<T>,
      static_cast<const T*>(args.x.data),
      args.rows.as<int32_t>(),
      static_cast<T*>(args.y.data),
      args.x.stride(0) * bytes / unit,
      args.y.stride(0) * bytes / unit,
      args.x.dim(1) * bytes / unit
  );
}

bool wide(const Tensor& t) {
  const int64_t bytes = info(t.dtype).block_bytes;
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride(0) * bytes % 16 == 0 &&
         t.dim(1) * bytes % 16 == 0;
}

}  // namespace

void row_gather_cuda_vec(Exec& exec, const RowGather& args) {
  if (wide(args.x) && wide(args.y)) return run<uint4>(exec, args);
  info(args.x.dtype).block_bytes == 2 ? run<uint16_t>(exec, args) : run<uint32_t>(exec, args);
}

}  // namespace fathom::ops
