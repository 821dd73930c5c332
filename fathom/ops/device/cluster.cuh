// Steps of a cluster that order no more than they must: cluster_barrier waits until all of a
// thread's writes have reached L2.
#pragma once

#include "fathom/ops/device/mbarrier.cuh"

namespace fathom::device {

// barrier.cluster.arrive.relaxed, by whole warps: for barriers just initialised (after
// fence_barrier_init), or where peers' memory has only been read.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
// barrier.cluster.wait, by whole warps.
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

}  // namespace fathom::device
