// What the machine's CUDA devices are, and in one line why one cannot be used.
#pragma once

#include <cstdint>
#include <string>

#include "fathom/base/result.h"

namespace fathom::cuda {

struct DeviceFacts {
  std::string name;  // as the driver spells it, "NVIDIA H200"
  int multiprocessors = 0;
  int capability = 0;  // 90 for Hopper
  int64_t memory_bytes = 0;
  int64_t l2_bytes = 0;
  int clock_mhz = 0;
  int driver = 0;                // 13000 for CUDA 13.0
  std::string describe() const;  // "NVIDIA H200, 132 SMs, 1980 MHz, 141 GB, driver CUDA 13.0"
};

// Facts of device `index`, made the calling thread's current one. The Error says what is missing:
// driver, device or architecture. Devices of capability 9.0 (H100, H200) are supported.
Result<DeviceFacts> open_device(int index);

// Multiprocessors of an opened device; asked at each launch, so read from the runtime's own cache.
int multiprocessors(int index);

}  // namespace fathom::cuda
