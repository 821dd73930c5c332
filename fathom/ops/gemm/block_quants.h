// GGUF block formats read one block at a time: what packing, references and the embedding share.
//
// Every format says: element e of a block = d * scale[e / 16] * (code[e] - offset)
//                                           + m * minimum[e / 16]
//   q8_0  d, 32 signed bytes                     code = byte + 128, offset 128
//   q4_0  d, 4 bits                              offset 8
//   q4_1  d, m, 4 bits                           offset 0
//   q5_0  d, 4 + 1 bits                          offset 16
//   q5_1  d, m, 4 + 1 bits                       offset 0
//   q4_k  d, m = -dmin, 8 x (6-bit scale, 6-bit minimum) of 32 elements each, 4 bits
//   q5_k  as q4_k, 4 + 1 bits
//   q6_k  d, 16 signed 8-bit scales of 16 elements each, 4 + 2 bits, offset 32
// Scale and minimum are 1 in formats that have none, m is 0. The format is the one that files of
// the GGUF specification hold; the bytes of a block are never read past its block_bytes.
#pragma once

#include <array>
#include <cstdint>

#include "fathom/core/dtype.h"

namespace fathom::ops {

struct BlockParts {
  uint16_t d = 0;  // f16 bits
  uint16_t m = 0;  // f16 bits
  int offset = 0;
  std::array<int16_t, 16> scale;    // of 16 elements each
  std::array<int16_t, 16> minimum;  // of 16 elements each
  std::array<uint8_t, 256> code;    // info(dtype).block_elements of them
};

// True for the eight formats above, as in the file.
bool is_block_quant(DType dtype);

// What is subtracted from a code of the format (file or packed dtype).
int code_offset(DType dtype);

// Takes one block of a file dtype apart.
BlockParts take_apart(DType dtype, const uint8_t* block);

// The block's `elements` values (32 or 256).
void block_values(const BlockParts& parts, int elements, float* values);

// `elements` consecutive values of a row in a file dtype; a multiple of the block.
void decode_blocks(DType dtype, const uint8_t* blocks, int64_t elements, float* values);

}  // namespace fathom::ops
