// Weight tiles: how the Hopper kernels want FP8, int8 and BF16 weights in memory.
//
// A matrix [N, K] becomes tiles of 64 rows x 128 bytes (128 FP8 or int8, 64 BF16 elements of K), 8
// KB each, K fastest, then N; a tile is exactly the swizzled image that WGMMA reads from shared
// memory (device/mma_sm90.cuh), so that one bulk copy without a tensor map brings it there in one
// DRAM burst. Rows beyond N are zero. A slice of rows at multiples of 64 is a tiled matrix. Scales
// stay as they were.
#pragma once

#include "fathom/core/exec.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

inline constexpr int64_t kTileRows = 64;
inline constexpr int64_t kTileRowBytes = 128;
inline constexpr int64_t kTileBytes = kTileRows * kTileRowBytes;

// Byte offset of byte `b` of row `n` in the tiles of a matrix whose rows have `row_bytes` bytes.
constexpr int64_t tile_offset(int64_t n, int64_t b, int64_t row_bytes) {
  const int64_t tile = n / kTileRows * (row_bytes / kTileRowBytes) + b / kTileRowBytes;
  const int64_t row = n % kTileRows;
  const int64_t chunk = b % kTileRowBytes / 16 ^ (row & 7);
  return tile * kTileBytes + row * kTileRowBytes + chunk * 16 + b % 16;
}

// The tiled dtype of `source` (f8e4m3, i8, bf16) for inner size K; `source` itself when it has none
// or K is no whole number of tiles.
DType tiled_dtype(DType source, int64_t K);
constexpr int64_t tiled_rows(int64_t N) {
  return (N + kTileRows - 1) / kTileRows * kTileRows;
}

struct TileWeight {
  Tensor source;  // [N, K] f8e4m3, i8 or bf16 in host memory, rows contiguous
  Tensor tiled;   // [tiled_rows(N), K] of tiled_dtype, in host memory; may not overlap source
};

// Uses exec's threads. Every byte of `tiled` is written.
void tile_weight(const Exec& exec, const TileWeight& args);

}  // namespace fathom::ops
