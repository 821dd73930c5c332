#include "fathom/core/cuda/launch.cuh"
#include "fathom/ops/device/ptx.cuh"
#include "fathom/testing/cuda/late_writer.h"

namespace fathom::testing {
namespace {

constexpr int kMaxCopies = 24;
constexpr int64_t kLateNanoseconds = 30'000;  // a successor has started and prefetched by then

struct Copies {
  LateCopy copy[kMaxCopies];
  int count;
};

__global__ void __launch_bounds__(256) late_copy(const Copies copies) {
  device::launch_successor();
  device::wait_for_predecessor();
  uint64_t start, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  do {
    __nanosleep(1000);
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - start < kLateNanoseconds);
  const int64_t thread = int64_t{blockIdx.x} * 256 + threadIdx.x;
  for (int i = 0; i < copies.count; ++i) {
    const LateCopy& c = copies.copy[i];
    for (int64_t b = thread; b < c.bytes; b += int64_t{gridDim.x} * 256)
      static_cast<uint8_t*>(c.to)[b] = static_cast<const uint8_t*>(c.from)[b];
  }
}

}  // namespace

void write_late(const Exec& exec, const std::vector<LateCopy>& copies) {
  CHECK(copies.size() <= kMaxCopies, "{} inputs", copies.size());
  Copies all{};
  all.count = static_cast<int>(copies.size());
  for (size_t i = 0; i < copies.size(); ++i) all.copy[i] = copies[i];
  // Few small CTAs: every SM keeps room for the successor.
  cuda::launch(exec, "late writer", {.grid = dim3(64), .threads = 256}, late_copy, all);
}

}  // namespace fathom::testing
