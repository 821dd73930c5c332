// Element types of tensors. A block type packs `block_elements` consecutive elements of the
// innermost dimension into `block_bytes`; a packed type is such a type reordered for a kernel
// (ops/gemm/pack_weight.h says how).
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace fathom {

enum class DType : uint8_t {
  f32,
  f16,
  bf16,
  f8e4m3,
  i8,
  u8,
  i32,
  i64,
  // GGUF blocks, bytes as in the file.
  q8_0,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q4_k,
  q5_k,
  q6_k,
  // CPU packs of 16 or 32 rows.
  q8_0x16,
  q4_0x16,
  q4_1x16,
  q5_0x16,
  q5_1x16,
  q4_kx16,
  q5_kx16,
  q6_kx16,
  bf16x32,
  f16x32,
  f32x32,
  f8e4m3x32,
  i8x16,
  // CUDA tiles of 64 rows (ops/gemm/weight_tiles.h).
  f8e4m3x64,
  bf16x64,
  i8x64,
};

struct DTypeInfo {
  std::string_view name;
  int block_elements;  // 1 for plain types
  int block_bytes;
  int pack_rows = 1;  // rows that a packed type interleaves
};

const DTypeInfo& info(DType dtype);
inline std::string_view name(DType dtype) {
  return info(dtype).name;
}

// Bytes of `elements` consecutive elements; elements must be a multiple of the block.
int64_t bytes_of(DType dtype, int64_t elements);

// Conversions between float and the 16 and 8 bit formats; to_*: round to nearest even. f8e4m3
// saturates at 448.
inline float bf16_to_float(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}
uint16_t float_to_bf16(float value);
float f16_to_float(uint16_t bits);
uint16_t float_to_f16(float value);
float f8e4m3_to_float(uint8_t bits);
uint8_t float_to_f8e4m3(float value);

}  // namespace fathom
