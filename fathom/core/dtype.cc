#include "fathom/core/dtype.h"

#include <array>
#include <cmath>
#include <limits>

#include "fathom/base/check.h"

namespace fathom {
namespace {

constexpr std::array<DTypeInfo, 32> kInfos = {{
    {"f32", 1, 4},
    {"f16", 1, 2},
    {"bf16", 1, 2},
    {"f8e4m3", 1, 1},
    {"i8", 1, 1},
    {"u8", 1, 1},
    {"i32", 1, 4},
    {"i64", 1, 8},
    {"q8_0", 32, 34},
    {"q4_0", 32, 18},
    {"q4_1", 32, 20},
    {"q5_0", 32, 22},
    {"q5_1", 32, 24},
    {"q4_k", 256, 144},
    {"q5_k", 256, 176},
    {"q6_k", 256, 210},
    {"q8_0x16", 32, 34, 16},
    {"q4_0x16", 32, 18, 16},
    {"q4_1x16", 32, 20, 16},
    {"q5_0x16", 32, 22, 16},
    {"q5_1x16", 32, 24, 16},
    {"q4_kx16", 256, 148, 16},
    {"q5_kx16", 256, 180, 16},
    {"q6_kx16", 256, 212, 16},
    {"bf16x32", 1, 2, 32},
    {"f16x32", 1, 2, 32},
    {"f32x32", 1, 4, 32},
    {"f8e4m3x32", 1, 1, 32},
    {"i8x16", 1, 1, 16},
    {"f8e4m3x64", 1, 1, 64},
    {"bf16x64", 1, 2, 64},
    {"i8x64", 1, 1, 64},
}};

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

constexpr std::array<float, 256> f8e4m3_values() {
  std::array<float, 256> values{};
  for (uint32_t code = 0; code < 256; ++code) {
    const uint32_t exponent = (code >> 3) & 15u;
    const uint32_t mantissa = code & 7u;
    float magnitude = static_cast<float>(exponent == 0 ? mantissa : 8 + mantissa) * 0x1p-9f;
    for (uint32_t e = 1; e < exponent; ++e) magnitude *= 2.0f;
    if (exponent == 15 && mantissa == 7) magnitude = std::numeric_limits<float>::quiet_NaN();
    values[code] = (code & 0x80u) != 0 ? -magnitude : magnitude;
  }
  return values;
}

}  // namespace

const DTypeInfo& info(DType dtype) {
  return kInfos.at(static_cast<size_t>(dtype));
}

int64_t bytes_of(DType dtype, int64_t elements) {
  const DTypeInfo& i = info(dtype);
  CHECK(
      elements % i.block_elements == 0,
      "{} elements of {} are no multiple of its block of {}",
      elements,
      i.name,
      i.block_elements
  );
  return elements / i.block_elements * i.block_bytes;
}

uint16_t float_to_bf16(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f16_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 31) return float_of(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return float_of(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t float_to_f16(float value) {
  const uint32_t bits = bits_of(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {                                               // subnormal half
    const float scaled = float_of(magnitude) * 0x1p24f;
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(scaled)));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

float f8e4m3_to_float(uint8_t code) {
  static constexpr std::array<float, 256> kValues = f8e4m3_values();
  return kValues[code];
}

uint8_t float_to_f8e4m3(float value) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return static_cast<uint8_t>(sign | 0x7f);
  if (magnitude >= 448.0f) return static_cast<uint8_t>(sign | 0x7e);
  if (magnitude < 0x1p-6f) {  // subnormal codes, steps of 2^-9
    return static_cast<uint8_t>(sign | static_cast<uint8_t>(std::nearbyint(magnitude * 0x1p9f)));
  }
  const uint32_t bits = bits_of(magnitude);
  const uint32_t rounded = bits + 0x7ffffu + ((bits >> 20) & 1u);
  return static_cast<uint8_t>(sign | ((rounded >> 20) - (120u << 3)));
}

}  // namespace fathom
