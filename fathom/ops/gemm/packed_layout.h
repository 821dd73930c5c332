// Where the pieces of the 16-row packed formats lie (pack_weight.h draws them). constexpr: kernels
// fold it for a fixed dtype.
#pragma once

#include <cstdint>

#include "fathom/core/dtype.h"

namespace fathom::ops {

inline constexpr int kGroupRows = 16;  // rows of a group of the block formats
inline constexpr int kPanelRows = 32;  // rows of a panel of the float formats
inline constexpr int kChunk = 32;      // k of one set of code planes

struct PackedLayout {
  int block;       // elements that share d: 32 or 256; i8x16 has no d
  int high_bits;   // planes above the nibbles: 0, 1 or 2 bits; 4 = whole bytes
  bool minimum;    // m is stored
  int scales;      // integer scales per block and row: 0, 8 or 16
  bool apart;      // d of all blocks after all codes
  int code_bytes;  // of one chunk
  int head_bytes;  // before the codes of a block, when not apart
  int tail_bytes;  // after the codes of a block, when not apart

  constexpr int block_stride() const {
    return head_bytes + block / kChunk * code_bytes + tail_bytes;
  }
  constexpr int64_t group_bytes(int64_t K) const {
    return K / block * (apart ? code_bytes + 32 : block_stride());
  }
  // Byte offsets inside a group.
  constexpr int64_t codes(int64_t k) const {
    if (apart) return k / kChunk * code_bytes;
    return k / block * block_stride() + head_bytes + k % block / kChunk * code_bytes;
  }
  constexpr int64_t d(int64_t K, int64_t k) const {
    if (apart) return K / kChunk * code_bytes + k / kChunk * 32;
    return k / block * block_stride() + (head_bytes > 0 ? 0 : code_bytes);
  }
  constexpr int64_t m(int64_t K, int64_t k) const { return d(K, k) + 32; }
  // 16 bytes: scale number `i` of the block of k, one per row; likewise the minimums.
  constexpr int64_t scale(int64_t k, int i) const {
    return k / block * block_stride() + 64 + 16 * i;
  }
  constexpr int64_t minimum_scale(int64_t k, int i) const { return scale(k, scales + i); }
};

constexpr PackedLayout simple_layout(int high_bits, bool minimum) {
  const int code_bytes = high_bits == 4 ? 512 : 256 + 64 * high_bits;
  return {32, high_bits, minimum, 0, !minimum, code_bytes, 0, minimum ? 64 : 32};
}

constexpr PackedLayout packed_layout(DType packed) {
  switch (packed) {
    case DType::q8_0x16:
      return simple_layout(4, false);
    case DType::q4_0x16:
      return simple_layout(0, false);
    case DType::q4_1x16:
      return simple_layout(0, true);
    case DType::q5_0x16:
      return simple_layout(1, false);
    case DType::q5_1x16:
      return simple_layout(1, true);
    case DType::q4_kx16:
      return {256, 0, true, 8, false, 256, 64 + 256, 0};
    case DType::q5_kx16:
      return {256, 1, true, 8, false, 320, 64 + 256, 0};
    case DType::q6_kx16:
      return {256, 2, false, 16, false, 384, 64 + 256, 0};
    case DType::i8x16:
      return {32, 4, false, 0, false, 512, 0, 0};
    default:
      return {};
  }
}

}  // namespace fathom::ops
