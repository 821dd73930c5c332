// token_select, row cuda_vec: a thread per element.
#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/ops/sample/token_select_rows.h"

namespace fathom::ops {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    select(const int32_t* source, const int32_t* index, int32_t* y, int n) {
  device::launch_successor();
  device::wait_for_predecessor();
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (i >= n) return;
  const int32_t from = index[i];
  if (from >= 0) y[i] = source[from];
}

}  // namespace

void token_select_cuda_vec(Exec& exec, const TokenSelect& args) {
  const int64_t n = args.y.dim(0);
  cuda::launch(
      exec,
      "token_select",
      {.grid = dim3(static_cast<unsigned>((n + kThreads - 1) / kThreads)), .threads = kThreads},
      select,
      args.source.as<int32_t>(),
      args.index.as<int32_t>(),
      args.y.as<int32_t>(),
      n
  );
}

}  // namespace fathom::ops
