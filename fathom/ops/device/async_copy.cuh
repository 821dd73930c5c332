// cp.async: copies of 16 bytes to shared memory that each lane addresses itself, where the bulk
// copy engine has no box for the pattern. Ordinary writes: fence_shared_for_async before TMA or
// WGMMA read them.
#pragma once

#include "fathom/ops/device/ptx.cuh"

namespace fathom::device {

// cp.async.cg: past the L1.
__device__ __forceinline__ void copy_16_async(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)),
               "l"(global)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// At most Pending groups of this thread are still on their way.
template <int Pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

}  // namespace fathom::device
