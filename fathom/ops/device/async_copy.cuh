// cp.async: copies of 16 bytes to shared memory that each lane addresses itself, where the bulk
// copy engine has no box for the pattern. Ordinary writes: fence_shared_for_async before TMA or
// WGMMA read them.
#pragma once

#include "fathom/ops/device/mbarrier.cuh"

namespace fathom::device {

// cp.async.cg: past the L1. To a shared_address, or to what it is of.
__device__ __forceinline__ void copy_16_async(uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
__device__ __forceinline__ void copy_16_async(void* shared, const void* global) {
  copy_16_async(shared_address(shared), global);
}
// cp.async.ca of 4 bytes.
__device__ __forceinline__ void copy_4_async(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}
// cp.async.mbarrier.arrive.noinc: this thread arrives, one of the barrier's expected arrivals, when
// its copies so far have landed. Before WGMMA reads them the waiting threads must
// fence_shared_for_async.
__device__ __forceinline__ void arrive_after_copies(Barrier& barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(&barrier)
  )
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
