// The arithmetic of int8 rows, once: how a row of values (a token's activations, an output
// channel's weights) gets its one scale and its codes. What w8a8_gemm and load-time quantisation
// share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace fathom::ops {

inline constexpr float kInt8Max = 127.0f;       // codes are symmetric: -128 is not made
inline constexpr float kInt8Eps = 1e-10f;       // least magnitude of a row that is quantised
inline constexpr int64_t kInt8MostK = 1 << 17;  // 2^17 * 128 * 127 is below 2^31

// A row's scale and what its values are multiplied by; `amax` is its largest magnitude.
struct Int8Scale {
  float scale;
  float inverse;

  static Int8Scale of(float amax) {
    const float most = std::max(amax, kInt8Eps);
    return {most / kInt8Max, kInt8Max / most};
  }
  // To nearest even, saturated.
  int8_t code(float value) const {
    const float rounded = std::nearbyint(value * inverse);
    return static_cast<int8_t>(std::clamp(rounded, -kInt8Max, kInt8Max));
  }
};

}  // namespace fathom::ops
