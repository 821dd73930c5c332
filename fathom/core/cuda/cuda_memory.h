// Memory of a CUDA device and copies to and from it. All block the calling thread; none may be
// called while a stream is captured. Steady-state steps use streams (stream.h) instead.
#pragma once

#include <cstdint>

#include "fathom/core/device.h"

namespace fathom::cuda {

// Zero-filled, 256-byte aligned; null when the device has no room left.
void* allocate(Device device, int64_t bytes);
void free(Device device, void* data);

// Page-locked host memory, zero-filled; null when there is none. Copies from it run beside kernels.
void* allocate_pinned(int64_t bytes);
void free_pinned(void* data);

void copy_to_device(void* device, const void* host, int64_t bytes);
void copy_to_host(void* host, const void* device, int64_t bytes);
void copy_on_device(void* to, const void* from, int64_t bytes);

// Bytes that nobody holds.
int64_t free_bytes(Device device);

// Waits for everything that was given to the device.
void synchronize(Device device);

}  // namespace fathom::cuda
