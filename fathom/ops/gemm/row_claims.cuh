// Groups of weight rows that CTAs claim. Each CTA is dealt its first few, the same way each time;
// the rest go to whoever asks first: DRAM serves some multiprocessors up to 1.7 times as fast as
// others, so that equal shares end far apart. Which CTA adds up a group does not show in its sums.
#pragma once

#include <cstdint>

namespace fathom::ops {

// Held by one thread of each CTA, which asks a turn before it takes the answer, so that nobody
// waits for the counter, a zero word in device memory. Every CTA asks until it is refused; the last
// refusal leaves the counter zero. Two registers: kernels that use it are full of weights.
struct RowClaims {
  static constexpr uint32_t kRefused = 0xffffffffu;
  const int ctas;   // that share the groups
  const int dealt;  // groups, of all CTAs
  uint32_t answer;

  __device__ RowClaims(int groups, int dealt_to_each, int of_ctas)
      : ctas(of_ctas), dealt(dealt_to_each * of_ctas), answer(groups > dealt ? 0 : kRefused) {}

  // After the predecessor has ended: it may count with the same word.
  __device__ void ask(uint32_t* counter) {
    if (answer != kRefused) answer = atomicAdd(counter, 1u);
  }
  // A group, or one beyond the last.
  __device__ int take(uint32_t* counter, int groups) {
    if (answer == kRefused) return groups;
    const int group = dealt + static_cast<int>(answer);
    if (group == groups + ctas - 1) *counter = 0;
    if (group >= groups) answer = kRefused;
    return group;
  }
};

}  // namespace fathom::ops
