// What this machine does at best, measured: the ceilings that op timings are a share of.
#pragma once

#include <cstdint>

#include "fathom/core/exec.h"

namespace fathom::testing {

// Bytes per second of one pass over [data, data + bytes) by all of exec's threads, each a
// contiguous part, with prefetch and the widest loads found. bytes is a multiple of 256.
double read_rate(const Exec& exec, const void* data, int64_t bytes);

struct MultiplyRates {
  double float_flops = 0;  // per second, two for each float multiply-add
  double byte_flops = 0;   // per second, two for each int8 multiply-add into int32
  double bf16_flops = 0;  // per second, two for each bf16 multiply-add into float; 0: no such thing
};

// Of all of exec's threads together, from registers; takes about 2 ms.
MultiplyRates multiply_rates(const Exec& exec);

}  // namespace fathom::testing
