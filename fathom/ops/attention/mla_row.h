// Reading and writing one row of the latent cache as floats, whatever its storage (mla_decode.h).
#pragma once

#include <cstring>

#include "fathom/ops/element.h"
#include "fathom/ops/quant/fp8_blocks.h"

namespace fathom::ops {

// Row `row` of page `page` into values [L + R].
inline void load_mla_row(
    const Tensor& kv, int64_t page, int64_t row, int64_t L, int64_t R, float* values
) {
  const int64_t offset = page * kv.stride(0) + row * kv.stride(1);
  if (kv.dtype != DType::u8) {
    for (int64_t i = 0; i < L + R; ++i) values[i] = load_element(kv, offset + i);
    return;
  }
  const uint8_t* bytes = kv.as<uint8_t>() + offset;
  for (int64_t i = 0; i < L; ++i) {
    float scale;
    std::memcpy(&scale, bytes + L + i / 128 * 4, sizeof(scale));
    values[i] = f8e4m3_to_float(bytes[i]) * scale;
  }
  for (int64_t i = 0; i < R; ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes + L + L / 128 * 4 + 2 * i, sizeof(bits));
    values[L + i] = bf16_to_float(bits);
  }
}

// values [L + R] into row `row` of page `page`.
inline void store_mla_row(
    const Tensor& kv, int64_t page, int64_t row, int64_t L, int64_t R, const float* values
) {
  const int64_t offset = page * kv.stride(0) + row * kv.stride(1);
  if (kv.dtype != DType::u8) {
    for (int64_t i = 0; i < L + R; ++i) store_element(kv, offset + i, values[i]);
    return;
  }
  uint8_t* bytes = kv.as<uint8_t>() + offset;
  for (int64_t i = 0; i < L; i += kFp8Block) {
    const float scale = fp8_scale(fp8_amax(values + i, kFp8Block, 1e-10f), false);
    std::memcpy(bytes + L + i / kFp8Block * 4, &scale, sizeof(scale));
    for (int64_t j = i; j < i + kFp8Block; ++j) bytes[j] = float_to_f8e4m3(values[j] / scale);
  }
  for (int64_t i = 0; i < R; ++i) {
    const uint16_t bits = float_to_bf16(values[L + i]);
    std::memcpy(bytes + L + L / kFp8Block * 4 + 2 * i, &bits, sizeof(bits));
  }
}

}  // namespace fathom::ops
