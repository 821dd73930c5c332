// pack_weight: reorders a weight matrix once, at load, for the CPU's matrix products, and reads
// rows back.
//
// A packed matrix interleaves 16 rows (32 for float types): a vector lane is an output row, K runs
// in memory order, so that products need no horizontal sums and one buffer serves a single row and
// prefill alike (specs: kernels_cpu, section 4). A packed Tensor has dims [Np, K], Np = N rounded
// up to its pack_rows; rows N..Np-1 decode to zero. Groups of pack_rows rows lie one after another:
// a slice of rows at multiples of pack_rows is a packed matrix. Sizes equal the file's, or 1 to 3 %
// more for q4_k, q5_k, q6_k, whose scales are widened to bytes.
//
// Pieces of the 16-row formats, for 32 consecutive k (a "dot" j = 0..7 is k = 4j .. 4j+3):
//   nibbles   4 x 64 B: plane i, dword r (row), byte b: low 4 bits of code k = 4i + b in its low
//             nibble, of k = 16 + 4i + b in its high nibble
//   bits      64 B: dword r, byte b, bit j: bit 4 of code k = 4j + b
//   pairs     2 x 64 B: plane h, dword r, byte b, bits 2i, 2i+1: bits 4..5 of code k = 4(4h+i) + b
//   bytes     8 x 64 B: plane j, dword r, byte b: code k = 4j + b
//   d, m      32 B: 16 f16, one per row
// Per group of 16 rows (codes, d, m, scale, minimum: block_quants.h):
//   q8_0x16   K/32 x bytes, then K/32 x d
//   q4_0x16   K/32 x nibbles, then K/32 x d
//   q5_0x16   K/32 x (nibbles, bits), then K/32 x d
//   q4_1x16   K/32 x (nibbles, d, m)
//   q5_1x16   K/32 x (nibbles, bits, d, m)
//   q4_kx16   K/256 x (d, m, 8 x 16 B scales, 8 x 16 B minimums, 8 x nibbles)
//   q5_kx16   K/256 x (d, m, 8 x 16 B scales, 8 x 16 B minimums, 8 x (nibbles, bits))
//   q6_kx16   K/256 x (d, 32 B zero, 16 x 16 B signed scales, 8 x (nibbles, pairs))
//   i8x16     K/32 x bytes, a code being 128 + the element; K a multiple of 32. The scales of rows
//             stay in their own tensor.
// Per panel of 32 rows:
//   bf16x32   K/2 x 128 B: dword r = (k, k+1) of row r; K even
//   f16x32    K x 32 f16
//   f32x32    K x 32 f32
//   f8e4m3x32 K/4 x 128 B: two halves of 16 rows, byte 16 l + 2 j + (v & 1) + 8 (v >> 1) of a half
//             = row 4 l + j, k = 4 i + v (i the index of the piece); K a multiple of 4. NaN codes
//             stay NaN. The 128 x 128 scales stay in their own tensor.
#pragma once

#include "fathom/core/exec.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

// The packed dtype for a matrix of `source` elements with inner size K on this CPU; `source` itself
// when it has none (a K that does not divide, a wide integer type): then the matrix is used as it
// is.
DType packed_dtype(DType source, int64_t K);

// True for the types that pack_weight makes; the type that a packed one was made from.
bool is_packed(DType dtype);
DType unpacked_dtype(DType packed);

// N rounded up to the rows that `packed` interleaves: dim(0) of the packed tensor.
int64_t packed_rows(DType packed, int64_t N);

struct PackWeight {
  Tensor source;  // [N, K], a plain float, i8 or GGUF block dtype; rows contiguous
  Tensor packed;  // [packed_rows(dtype, N), K] of packed_dtype(source.dtype, K), data at a multiple
                  // of 64 bytes; may not overlap source
};

// Uses exec's threads. Every byte of `packed` is written.
void pack_weight(const Exec& exec, const PackWeight& args);

// Row n of a plain float, i8, GGUF block or packed matrix as K floats. FP8 and int8 without their
// scales.
void decode_row(const Tensor& weight, int64_t n, float* values);

}  // namespace fathom::ops
