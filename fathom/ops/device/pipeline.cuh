// Ring: where a producer or a consumer stands in a ring of Stages shared-memory slots.
#pragma once

#include <cstdint>

namespace fathom::device {

template <int Stages>
struct Ring {
  int stage = 0;
  uint32_t pass = 0;  // parity of the passes over the ring

  __device__ __forceinline__ void advance() {
    if (++stage == Stages) {
      stage = 0;
      pass ^= 1;
    }
  }
  // The parity that a consumer waits for at the slot's "full" barrier.
  __device__ __forceinline__ uint32_t full_parity() const { return pass; }
  // The parity that a producer waits for at the slot's "empty" barrier.
  __device__ __forceinline__ uint32_t empty_parity() const { return pass ^ 1; }
};

}  // namespace fathom::device
