// Kernels that do one thing as fast as the GPU can: what ceilings are measured with. All
// asynchronous on exec's stream.
#pragma once

#include <cstdint>

#include "fathom/core/exec.h"

namespace fathom::testing {

// bytes: a multiple of 8192. Reads are issued before the predecessor is waited for; 0 only waits.
void probe_read(const Exec& exec, const void* data, int64_t bytes);
void probe_write(const Exec& exec, void* data, int64_t bytes);
void probe_copy(const Exec& exec, void* to, const void* from, int64_t bytes);

// Tensor-core products of random tiles in shared memory on every SM; returns the flops launched.
double probe_products(const Exec& exec, bool fp8);

}  // namespace fathom::testing
