// The bulk copy engine (TMA): one thread starts a copy, an mbarrier counts its bytes.
#pragma once

#include "fathom/core/cuda/tensor_map.h"
#include "fathom/ops/device/mbarrier.cuh"

namespace fathom::device {

using cuda::TensorMap;

// L2 policies (createpolicy.fractional, as constants): weights pass once, activations come again.
inline constexpr uint64_t kEvictFirst = 0x12F0000000000000;
inline constexpr uint64_t kEvictNormal = 0x1000000000000000;
inline constexpr uint64_t kEvictLast = 0x14F0000000000000;

// cp.async.bulk, global to shared: `bytes` consecutive ones; addresses and size multiples of 16.
__device__ __forceinline__ void bulk_load(
    void* shared, const void* global, uint32_t bytes, Barrier& full, uint64_t policy
) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(shared)),
      "l"(global),
      "r"(bytes),
      "r"(shared_address(&full)),
      "l"(policy)
      : "memory"
  );
}

// The same into the same offset of every CTA of the cluster in `mask`; each CTA's own barrier at
// the offset of `full` counts what lands in it.
__device__ __forceinline__ void bulk_load_multicast(
    void* shared, const void* global, uint32_t bytes, Barrier& full, uint16_t mask, uint64_t policy
) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
      ".L2::cache_hint [%0], [%1], %2, [%3], %4, %5;" ::"r"(shared_address(shared)),
      "l"(global),
      "r"(bytes),
      "r"(shared_address(&full)),
      "h"(mask),
      "l"(policy)
      : "memory"
  );
}

// cp.async.bulk.prefetch.L2: brings bytes as near as L2.
__device__ __forceinline__ void prefetch_l2(const void* global, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
}

// prefetch.tensormap
__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// cp.async.bulk.tensor.2d, global to shared: the box at (column, row).
__device__ __forceinline__ void box_load(
    void* shared, const TensorMap& map, int column, int row, Barrier& full, uint64_t policy
) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(shared)),
      "l"(&map),
      "r"(shared_address(&full)),
      "r"(column),
      "r"(row),
      "l"(policy)
      : "memory"
  );
}

// The same into the same offset of every CTA of the cluster in `mask`; each CTA's own barrier
// counts what lands in it.
__device__ __forceinline__ void box_load_multicast(
    void* shared,
    const TensorMap& map,
    int column,
    int row,
    Barrier& full,
    uint16_t mask,
    uint64_t policy
) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(
          shared_address(shared)
      ),
      "l"(&map),
      "r"(shared_address(&full)),
      "r"(column),
      "r"(row),
      "h"(mask),
      "l"(policy)
      : "memory"
  );
}

// cp.async.bulk.tensor.3d, global to shared.
__device__ __forceinline__ void box_load_3d(
    void* shared, const TensorMap& map, int c0, int c1, int c2, Barrier& full, uint64_t policy
) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared_address(shared)),
      "l"(&map),
      "r"(shared_address(&full)),
      "r"(c0),
      "r"(c1),
      "r"(c2),
      "l"(policy)
      : "memory"
  );
}

// cp.async.bulk.prefetch.tensor.3d: brings a box as near as L2.
__device__ __forceinline__ void box_prefetch_3d(const TensorMap& map, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global.tile [%0, {%1, %2, %3}];" ::"l"(&map),
               "r"(c0),
               "r"(c1),
               "r"(c2)
               : "memory");
}

// cp.async.bulk.tensor.4d, global to shared.
__device__ __forceinline__ void box_load_4d(
    void* shared,
    const TensorMap& map,
    int c0,
    int c1,
    int c2,
    int c3,
    Barrier& full,
    uint64_t policy
) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(shared_address(shared)),
      "l"(&map),
      "r"(shared_address(&full)),
      "r"(c0),
      "r"(c1),
      "r"(c2),
      "r"(c3),
      "l"(policy)
      : "memory"
  );
}

// The same into the same offset of every CTA of the cluster in `mask`, as box_load_multicast.
__device__ __forceinline__ void box_load_multicast_4d(
    void* shared,
    const TensorMap& map,
    int c0,
    int c1,
    int c2,
    int c3,
    Barrier& full,
    uint16_t mask,
    uint64_t policy
) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4, %5, %6}], [%2], %7, %8;" ::"r"(
          shared_address(shared)
      ),
      "l"(&map),
      "r"(shared_address(&full)),
      "r"(c0),
      "r"(c1),
      "r"(c2),
      "r"(c3),
      "h"(mask),
      "l"(policy)
      : "memory"
  );
}

// cp.async.bulk.tensor.2d, shared to global, and the group that tells when the source is free.
__device__ __forceinline__ void box_store(
    const TensorMap& map, const void* shared, int column, int row
) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
      "r"(shared_address(shared)),
      "r"(column),
      "r"(row)
      : "memory"
  );
}
// cp.async.bulk.tensor.3d, shared to global, of the same group.
__device__ __forceinline__ void box_store_3d(
    const TensorMap& map, const void* shared, int c0, int c1, int c2
) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
      "r"(shared_address(shared)),
      "r"(c0),
      "r"(c1),
      "r"(c2)
      : "memory"
  );
}

// cp.async.bulk, shared to global: `bytes` consecutive ones; addresses and size multiples of 16.
__device__ __forceinline__ void bulk_store(void* global, const void* shared, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
               "r"(shared_address(shared)),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void commit_stores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// At most Pending groups of this thread have not yet been written.
template <int Pending>
__device__ __forceinline__ void wait_stores() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(Pending) : "memory");
}
// At most Pending groups of this thread still read shared memory.
template <int Pending>
__device__ __forceinline__ void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}

}  // namespace fathom::device
