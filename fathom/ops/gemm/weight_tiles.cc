#include "fathom/ops/gemm/weight_tiles.h"

#include <cstring>

namespace fathom::ops {

DType tiled_dtype(DType source, int64_t K) {
  const bool whole = K > 0 && bytes_of(source, K) % kTileRowBytes == 0;
  if (source == DType::f8e4m3 && whole) return DType::f8e4m3x64;
  if (source == DType::bf16 && whole) return DType::bf16x64;
  if (source == DType::i8 && whole) return DType::i8x64;
  return source;
}

void tile_weight(const Exec& exec, const TileWeight& args) {
  const Tensor& source = args.source;
  const int64_t N = source.dim(0);
  const int64_t K = source.dim(1);
  CHECK(
      args.tiled.dtype == tiled_dtype(source.dtype, K) && args.tiled.dtype != source.dtype,
      "{} cannot be tiled into {}",
      source.describe(),
      args.tiled.describe()
  );
  CHECK(
      args.tiled.dim(0) == tiled_rows(N) && args.tiled.dim(1) == K,
      "{} for {}",
      args.tiled.describe(),
      source.describe()
  );
  const int64_t row_bytes = bytes_of(source.dtype, K);
  const auto* from = static_cast<const uint8_t*>(source.data);
  auto* to = static_cast<uint8_t*>(args.tiled.data);
  exec.parallel_for(tiled_rows(N), kTileRows, [&](Range rows) {
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      for (int64_t b = 0; b < row_bytes; b += 16) {
        uint8_t* chunk = to + tile_offset(n, b, row_bytes);
        if (n < N) {
          std::memcpy(chunk, from + bytes_of(source.dtype, n * source.stride(0)) + b, 16);
        } else {
          std::memset(chunk, 0, 16);
        }
      }
    }
  });
}

}  // namespace fathom::ops
