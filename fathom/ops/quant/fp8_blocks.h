// The arithmetic of FP8 blocks, once: how a group of values gets its scale and codes, and where the
// scale of a weight's element stands. What fused_quant, products, the MoE and load-time
// quantisation share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "fathom/core/tensor.h"

namespace fathom::ops {

inline constexpr int64_t kFp8Block = 128;  // values of a group; rows and columns of a weight block
inline constexpr float kFp8Max = 448.0f;   // largest e4m3

inline int64_t fp8_blocks(int64_t n) {
  return (n + kFp8Block - 1) / kFp8Block;
}

// The scale of values whose largest magnitude is `amax`, which the caller has clamped from below.
inline float fp8_scale(float amax, bool ue8m0) {
  const float scale = amax / kFp8Max;
  if (!ue8m0) return scale;
  int exponent = 0;
  const float fraction = std::frexp(scale, &exponent);  // scale = fraction * 2^exponent, [0.5, 1)
  return std::ldexp(1.0f, fraction == 0.5f ? exponent - 1 : exponent);
}

inline float fp8_amax(const float* values, int64_t n, float eps) {
  float amax = eps;
  for (int64_t i = 0; i < n; ++i) amax = std::max(amax, std::fabs(values[i]));
  return amax;
}

// The f32 scale of block (n / 128, k / 128) of a weight [.., N, K]; 1 when it has no scales.
inline float block_scale(const Tensor& scale, int64_t n, int64_t k) {
  if (!scale.defined()) return 1.0f;
  return scale.as<float>()[n / kFp8Block * scale.stride(-2) + k / kFp8Block];
}

}  // namespace fathom::ops
