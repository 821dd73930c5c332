// The probes of machine_rates, one set per instruction level.
#pragma once

#include <cstdint>

namespace fathom::testing {

struct RateKernels {
  // Reads every byte; the sum keeps the loads alive.
  uint64_t (*read)(const void* data, int64_t bytes) = nullptr;
  // `rounds` x multiply_adds_per_round of independent float, or byte, multiply-adds.
  float (*float_products)(int64_t rounds) = nullptr;
  int32_t (*byte_products)(int64_t rounds) = nullptr;
  int64_t float_adds_per_round = 0;
  int64_t byte_adds_per_round = 0;
  // Null where the level has no bf16 products; the CPU may lack them nevertheless.
  float (*bf16_products)(int64_t rounds) = nullptr;
  int64_t bf16_adds_per_round = 0;
};

namespace N_AVX2 {
RateKernels rate_kernels();
}
namespace N_AVX3 {
RateKernels rate_kernels();
}
namespace N_AVX3_DL {
RateKernels rate_kernels();
}
namespace N_NEON {
RateKernels rate_kernels();
}

}  // namespace fathom::testing
