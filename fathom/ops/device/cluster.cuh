// Steps of a cluster that order no more than they must: a barrier in two halves, mbarriers at which
// CTAs show each other shared memory, and stores into a peer's that count themselves in. What
// releases to the whole cluster (cluster_barrier, Barrier::arrive_at) waits until all of a thread's
// writes have reached L2.
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

// mbarrier.arrive at the same barrier of another CTA: what this thread has written, or has seen
// written by a CTA barrier, to this CTA's shared memory becomes visible to who waits there.
__device__ __forceinline__ void show_shared_at(Barrier& barrier, uint32_t rank) {
  asm volatile(
      "fence.release.sync_restrict::shared::cta.cluster;\n"
      "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%0];" ::"r"(
          peer_address(shared_address(&barrier), rank)
      )
      : "memory"
  );
}
// mbarrier.try_wait, until true; sees what was shown.
__device__ __forceinline__ void wait_shown(Barrier& barrier, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(shared_address(&barrier)), "r"(parity)
        : "memory"
    );
  } while (done == 0);
  asm volatile("fence.acquire.sync_restrict::shared::cluster.cluster;" ::: "memory");
}

// st.async: 16 bytes into a peer's shared memory, which its barrier counts as it counts TMA's. Both
// addresses are the peer's (peer_address); it waits by wait_cluster.
__device__ __forceinline__ void send_async(uint32_t to, float4 v, uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(to),
      "f"(v.x),
      "f"(v.y),
      "f"(v.z),
      "f"(v.w),
      "r"(barrier)
      : "memory"
  );
}

}  // namespace fathom::device
