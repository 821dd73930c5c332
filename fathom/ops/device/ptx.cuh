// Single instructions that the other headers of the kit and the kernels share. Each wrapper names
// its instruction; semantics: PTX ISA.
#pragma once

#include <cstdint>

namespace fathom::device {

// cvta.to.shared: the 32-bit address that PTX wants for shared memory.
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// griddepcontrol.wait: until every kernel before this one has ended and its writes are visible.
__device__ __forceinline__ void wait_for_predecessor() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// griddepcontrol.launch_dependents: the next kernel may start on the SMs that have room. Safe
// anywhere: it waits for this kernel's end before it touches activations.
__device__ __forceinline__ void launch_successor() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// bar.sync: `threads` threads meet at named barrier Id (1..15; 0 is __syncthreads).
template <int Id>
__device__ __forceinline__ void named_barrier(int threads) {
  static_assert(Id >= 1 && Id <= 15);
  asm volatile("bar.sync %0, %1;" ::"n"(Id), "r"(threads) : "memory");
}

// The same at a barrier chosen at run time.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// bar.arrive: counts at barrier `id` without waiting, for turns: lets those go who meet there.
__device__ __forceinline__ void give_turn(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// fence.proxy.async: this thread's ordinary writes to shared memory become visible to TMA and
// WGMMA; a barrier must follow before another thread starts those.
__device__ __forceinline__ void fence_shared_for_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// setmaxnreg: a whole warpgroup gives registers back, or takes them.
template <int Registers>
__device__ __forceinline__ void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

// elect.sync: true in one lane of a converged warp.
__device__ __forceinline__ bool elect_one() {
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(elected)
  );
  return elected != 0;
}

// atom.acq_rel.gpu.add: counts an arrival after this CTA's writes (order them with a CTA barrier
// first) and sees the writes of those that arrived before. Returns the count before.
__device__ __forceinline__ uint32_t arrive_counter(uint32_t* counter, uint32_t n = 1) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(counter), "r"(n)
               : "memory");
  return before;
}

// red.release.gpu.add and ld.acquire.gpu: a flag between CTAs.
__device__ __forceinline__ void release_counter(uint32_t* counter, uint32_t n = 1) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(n) : "memory");
}
__device__ __forceinline__ uint32_t acquire_counter(const uint32_t* counter) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

// Cluster: its number, rank of this CTA, a barrier of all threads of all CTAs, and a peer's copy of
// an address.
__device__ __forceinline__ uint32_t cluster_id() {
  uint32_t id;
  asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(id));
  return id;
}
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void cluster_barrier() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory"
  );
}
__device__ __forceinline__ uint32_t peer_address(uint32_t address, uint32_t rank) {
  uint32_t peer;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(address), "r"(rank));
  return peer;
}
// mapa of a generic address: a peer's copy of an object in shared memory, for ordinary loads.
template <class T>
__device__ __forceinline__ const T* peer_object(const T* object, uint32_t rank) {
  uint64_t peer;
  asm volatile("mapa.u64 %0, %1, %2;"
               : "=l"(peer)
               : "l"(reinterpret_cast<uint64_t>(object)), "r"(rank));
  return reinterpret_cast<const T*>(peer);
}

// ex2.approx.ftz
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace fathom::device
