#include "fathom/core/cuda/cuda_error.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

namespace fathom::cuda {

void check(int code, std::string_view call, std::string_view where) {
  if (code == cudaSuccess) [[likely]]
    return;
  const auto error = static_cast<cudaError_t>(code);
  throw DeviceError(fmt::format(
      "{}{}{}: {} ({})",
      where,
      where.empty() ? "" : ": ",
      call,
      cudaGetErrorString(error),
      cudaGetErrorName(error)
  ));
}

}  // namespace fathom::cuda
