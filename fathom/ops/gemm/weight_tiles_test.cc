#include "fathom/ops/gemm/weight_tiles.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

namespace fathom::ops {
namespace {

TEST(WeightTiles, EveryByteHasItsOwnPlace) {
  constexpr int64_t kRows = 128, kRowBytes = 256;
  std::set<int64_t> places;
  for (int64_t n = 0; n < kRows; ++n) {
    for (int64_t b = 0; b < kRowBytes; ++b) places.insert(tile_offset(n, b, kRowBytes));
  }
  EXPECT_EQ(places.size(), static_cast<size_t>(kRows * kRowBytes));
  EXPECT_EQ(*places.rbegin(), kRows * kRowBytes - 1);
}

TEST(WeightTiles, ChunksAreSwizzledByRow) {
  EXPECT_EQ(tile_offset(0, 0, 256), 0);
  EXPECT_EQ(tile_offset(1, 0, 256), 128 + 16);
  EXPECT_EQ(tile_offset(7, 112, 256), 7 * 128);
  EXPECT_EQ(tile_offset(0, 128, 256), kTileBytes);
  EXPECT_EQ(tile_offset(64, 0, 256), 2 * kTileBytes);
}

TEST(WeightTiles, RowsBeyondTheMatrixAreZero) {
  std::vector<uint8_t> source(65 * 128), tiled(128 * 128, 0xff);
  std::iota(source.begin(), source.end(), uint8_t{1});
  tile_weight(
      Exec{},
      {.source = Tensor::of(source.data(), DType::f8e4m3, Device::cpu(), {65, 128}),
       .tiled = Tensor::of(tiled.data(), DType::f8e4m3x64, Device::cpu(), {128, 128})}
  );
  for (int64_t n = 0; n < 128; ++n) {
    for (int64_t b = 0; b < 128; ++b) {
      const int wanted = n < 65 ? source[static_cast<size_t>(n * 128 + b)] : 0;
      ASSERT_EQ(tiled[static_cast<size_t>(tile_offset(n, b, 128))], wanted) << n << " " << b;
    }
  }
}

}  // namespace
}  // namespace fathom::ops
