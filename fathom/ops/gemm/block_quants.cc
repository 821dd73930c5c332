#include "fathom/ops/gemm/block_quants.h"

#include <cstring>

#include "fathom/base/check.h"

namespace fathom::ops {
namespace {

uint16_t read_u16(const uint8_t* bytes) {
  uint16_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

// 16 bytes of nibbles: byte i holds elements i (low) and i + 16 (high).
void nibbles_of_32(const uint8_t* bytes, uint8_t* code) {
  for (int i = 0; i < 16; ++i) {
    code[i] = bytes[i] & 15;
    code[i + 16] = bytes[i] >> 4;
  }
}

// Bit e of the 32-bit word is bit 4 of element e.
void fifth_bits_of_32(const uint8_t* bytes, uint8_t* code) {
  uint32_t bits;
  std::memcpy(&bits, bytes, sizeof(bits));
  for (int e = 0; e < 32; ++e) code[e] |= static_cast<uint8_t>((bits >> e & 1) << 4);
}

// The 12 bytes of q4_k and q5_k: eight 6-bit scales and eight 6-bit minimums. The first four of
// each lie in the low 6 bits of bytes 0..7; the others have their low 4 bits in bytes 8..11 and
// their high 2 bits on top of the first eight bytes.
void six_bit_scales(const uint8_t* bytes, BlockParts& parts) {
  for (size_t j = 0; j < 8; ++j) {
    int scale, minimum;
    if (j < 4) {
      scale = bytes[j] & 63;
      minimum = bytes[j + 4] & 63;
    } else {
      scale = (bytes[j + 4] & 15) | (bytes[j - 4] >> 6) << 4;
      minimum = (bytes[j + 4] >> 4) | (bytes[j] >> 6) << 4;
    }
    parts.scale[2 * j] = parts.scale[2 * j + 1] = static_cast<int16_t>(scale);
    parts.minimum[2 * j] = parts.minimum[2 * j + 1] = static_cast<int16_t>(minimum);
  }
}

// Chunks of 64 elements in 32 bytes: low nibbles are the first 32, high nibbles the others.
void nibbles_of_256(const uint8_t* bytes, uint8_t* code) {
  for (int chunk = 0; chunk < 4; ++chunk) {
    for (int i = 0; i < 32; ++i) {
      code[64 * chunk + i] = bytes[32 * chunk + i] & 15;
      code[64 * chunk + 32 + i] = bytes[32 * chunk + i] >> 4;
    }
  }
}

void take_k_apart(DType dtype, const uint8_t* block, BlockParts& parts) {
  parts.d = read_u16(block);
  parts.m = read_u16(block + 2) ^ 0x8000;  // the file's dmin is subtracted
  six_bit_scales(block + 4, parts);
  const bool five_bits = dtype == DType::q5_k;
  nibbles_of_256(block + (five_bits ? 48 : 16), parts.code.data());
  if (!five_bits) return;
  for (size_t e = 0; e < 256; ++e) {
    const int bit = block[16 + e % 32] >> (e / 32) & 1;
    parts.code[e] |= static_cast<uint8_t>(bit << 4);
  }
}

void take_q6_k_apart(const uint8_t* block, BlockParts& parts) {
  for (size_t e = 0; e < 256; ++e) {
    const size_t half = e / 128, quarter = e % 128 / 32, i = e % 32;
    const int low = block[64 * half + 32 * (quarter % 2) + i] >> (4 * (quarter / 2)) & 15;
    const int high = block[128 + 32 * half + i] >> (2 * quarter) & 3;
    parts.code[e] = static_cast<uint8_t>(low | high << 4);
  }
  for (size_t j = 0; j < 16; ++j) parts.scale[j] = static_cast<int8_t>(block[192 + j]);
  parts.d = read_u16(block + 208);
}

}  // namespace

bool is_block_quant(DType dtype) {
  return dtype >= DType::q8_0 && dtype <= DType::q6_k;
}

int code_offset(DType dtype) {
  switch (dtype) {
    case DType::q8_0:
    case DType::q8_0x16:
      return 128;
    case DType::q4_0:
    case DType::q4_0x16:
      return 8;
    case DType::q5_0:
    case DType::q5_0x16:
      return 16;
    case DType::q6_k:
    case DType::q6_kx16:
      return 32;
    default:
      return 0;
  }
}

BlockParts take_apart(DType dtype, const uint8_t* block) {
  BlockParts parts;
  parts.offset = code_offset(dtype);
  parts.scale.fill(1);
  parts.minimum.fill(1);
  switch (dtype) {
    case DType::q8_0:
      parts.d = read_u16(block);
      for (size_t e = 0; e < 32; ++e) parts.code[e] = block[2 + e] ^ 0x80;
      break;
    case DType::q4_0:
      parts.d = read_u16(block);
      nibbles_of_32(block + 2, parts.code.data());
      break;
    case DType::q4_1:
      parts.d = read_u16(block);
      parts.m = read_u16(block + 2);
      nibbles_of_32(block + 4, parts.code.data());
      break;
    case DType::q5_0:
      parts.d = read_u16(block);
      nibbles_of_32(block + 6, parts.code.data());
      fifth_bits_of_32(block + 2, parts.code.data());
      break;
    case DType::q5_1:
      parts.d = read_u16(block);
      parts.m = read_u16(block + 2);
      nibbles_of_32(block + 8, parts.code.data());
      fifth_bits_of_32(block + 4, parts.code.data());
      break;
    case DType::q4_k:
    case DType::q5_k:
      take_k_apart(dtype, block, parts);
      break;
    case DType::q6_k:
      take_q6_k_apart(block, parts);
      break;
    default:
      CHECK(false, "{} is no GGUF block format", name(dtype));
  }
  return parts;
}

void block_values(const BlockParts& parts, int elements, float* values) {
  const float d = f16_to_float(parts.d);
  const float m = f16_to_float(parts.m);
  for (int e = 0; e < elements; ++e) {
    const size_t i = static_cast<size_t>(e);
    const float code = static_cast<float>(parts.code[i] - parts.offset);
    values[e] = d * static_cast<float>(parts.scale[i / 16]) * code +
                m * static_cast<float>(parts.minimum[i / 16]);
  }
}

void decode_blocks(DType dtype, const uint8_t* blocks, int64_t elements, float* values) {
  const DTypeInfo& format = info(dtype);
  for (int64_t e = 0; e < elements; e += format.block_elements, blocks += format.block_bytes) {
    block_values(take_apart(dtype, blocks), format.block_elements, values + e);
  }
}

}  // namespace fathom::ops
