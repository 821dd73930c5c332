// mbarrier: a barrier in shared memory that also counts bytes that TMA delivers.
//
// Phases start at 0. wait(p) returns once the phase of parity p has completed: a consumer of a ring
// waits its "full" barriers from parity 0, a producer its "empty" ones from parity 1 (the first
// pass is free). A phase completes when the expected arrivals have come and no announced byte is
// missing.
#pragma once

#include "fathom/ops/device/ptx.cuh"

namespace fathom::device {

struct Barrier {
  uint64_t state;

  // mbarrier.init. By one thread; then fence_barrier_init() and a CTA (or cluster) barrier.
  __device__ __forceinline__ void init(uint32_t arrivals) {
    asm volatile(
        "mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals)
    );
  }
  // mbarrier.arrive
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }
  // mbarrier.arrive.expect_tx: arrives, and announces bytes.
  __device__ __forceinline__ void arrive_expect(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)
                 ),
                 "r"(bytes)
                 : "memory");
  }
  // mbarrier.arrive at the same barrier of another CTA of the cluster.
  __device__ __forceinline__ void arrive_at(uint32_t rank) {
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(
                     peer_address(shared_address(this), rank)
    )
                 : "memory");
  }
  // The same of this CTA's scope: for who has only read what TMA brought. release.cluster would
  // wait for all of the thread's loads and stores.
  __device__ __forceinline__ void let_go_at(uint32_t rank) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(
                     peer_address(shared_address(this), rank)
    )
                 : "memory");
  }
  // mbarrier.try_wait.parity, until true.
  __device__ __forceinline__ void wait(uint32_t parity) {
    uint32_t done;
    do {
      asm volatile(
          "{\n"
          ".reg .pred p;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
          "selp.u32 %0, 1, 0, p;\n"
          "}"
          : "=r"(done)
          : "r"(shared_address(this)), "r"(parity)
          : "memory"
      );
    } while (done == 0);
  }
  // mbarrier.test_wait.parity: whether wait would return at once.
  __device__ __forceinline__ bool passed(uint32_t parity) const {
    uint32_t done;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(shared_address(this)), "r"(parity)
        : "memory"
    );
    return done != 0;
  }
  // The same as wait, and sees what the threads of the cluster that arrived wrote before.
  __device__ __forceinline__ void wait_cluster(uint32_t parity) {
    uint32_t done;
    do {
      asm volatile(
          "{\n"
          ".reg .pred p;\n"
          "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
          "selp.u32 %0, 1, 0, p;\n"
          "}"
          : "=r"(done)
          : "r"(shared_address(this)), "r"(parity)
          : "memory"
      );
    } while (done == 0);
  }
};

// fence.mbarrier_init: initialised barriers become visible to TMA and to the cluster.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

}  // namespace fathom::device
