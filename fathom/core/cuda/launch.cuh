// launch(): the only way a kernel of ours starts.
//
// Every kernel is launched as a programmatic dependent (PDL) of the one before it on the stream: it
// may start while that one still runs, and so must execute griddepcontrol.wait (device/ptx.cuh:
// wait_for_predecessor) before it reads or writes anything that an earlier kernel of the step
// writes or reads. What no kernel of a step writes (weights, their scales, tensor maps) it may
// fetch before. Every thread that touches activations executes the wait, in every kernel, also one
// with nothing to do: a kernel that ends without waiting breaks the chain for its successors. The
// op tests hold each row to this with a predecessor that writes the inputs late.
#pragma once

#include <cuda_runtime.h>

#include <string_view>

#include "fathom/core/cuda/cuda_error.h"
#include "fathom/core/exec.h"

namespace fathom::cuda {

struct LaunchShape {
  dim3 grid;
  int threads = 0;
  int shared_bytes = 0;  // dynamic
  int cluster = 1;       // CTAs of a cluster, along x
};

// `where` names the op in errors. Arguments convert to the kernel's parameter types. An empty grid
// launches nothing.
template <class... Params, class... Args>
void launch(
    const Exec& exec,
    std::string_view where,
    const LaunchShape& shape,
    void (*kernel)(Params...),
    Args&&... args
) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  constexpr int kSharedWithoutAsking = 48 << 10;
  if (shape.shared_bytes > kSharedWithoutAsking) {
    check(
        cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes
        ),
        "cudaFuncSetAttribute",
        where
    );
  }
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(shape.cluster);
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = static_cast<cudaStream_t>(exec.stream);
  config.attrs = attributes;
  config.numAttrs = shape.cluster > 1 ? 2 : 1;
  check(
      cudaLaunchKernelEx(&config, kernel, static_cast<Params>(std::forward<Args>(args))...),
      "kernel launch",
      where
  );
}

}  // namespace fathom::cuda
