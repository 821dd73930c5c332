// 32 activations rounded to int8, with all that a product needs of them in one run of 48 bytes.
#pragma once

#include <cstdint>

#include "fathom/ops/gemm/packed_layout.h"

namespace fathom::ops {

struct QuantisedChunk {
  int8_t q[kChunk];
  float d;      // x is about d * q
  float d_sum;  // d * sum(q): what a block's minimum is multiplied by
  int32_t
      start[2];  // -offset * sum of the first and of the last 16 q: where the integer sums begin
};
static_assert(sizeof(QuantisedChunk) == 48);

}  // namespace fathom::ops
