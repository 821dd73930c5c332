// The arithmetic of FP8 rows, once: how a row of values (a token's activations, an output channel's
// weights) gets its one scale and its e4m3 codes. What w8a8_gemm and load-time quantisation share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fathom/core/dtype.h"
#include "fathom/ops/quant/fp8_blocks.h"

namespace fathom::ops {

inline constexpr float kFp8RowEps = 1e-10f;  // least magnitude of a row that is quantised

// A row's scale; `amax` is its largest magnitude.
struct Fp8RowScale {
  float scale;

  static Fp8RowScale of(float amax) { return {std::max(amax, kFp8RowEps) / kFp8Max}; }
  // To nearest even, saturated.
  uint8_t code(float value) const { return float_to_f8e4m3(value / scale); }
};

}  // namespace fathom::ops
