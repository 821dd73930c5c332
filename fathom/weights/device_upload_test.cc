// How weights come to a GPU, with the CPU in its place: what tile_weight makes of a matrix is what
// lies there afterwards, whatever pieces it went in.
#include "fathom/weights/device_upload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "fathom/ops/gemm/weight_tiles.h"

namespace fathom::weights {
namespace {

std::vector<uint8_t> upload_tiles(const Tensor& source, DType tiled) {
  const Exec exec{};
  MemoryLedger ledger;
  DeviceUpload upload(exec, ledger);
  const int64_t rows = ops::tiled_rows(source.dim(0)), K = source.dim(1);
  std::vector<uint8_t> there(static_cast<size_t>(bytes_of(tiled, rows * K)), 0xff);
  const Tensor to = Tensor::of(there.data(), tiled, Device::cpu(), {rows, K});
  EXPECT_TRUE(upload.tiles(source, to).ok());
  upload.finish();
  return there;
}

std::vector<uint8_t> tiles_of(const Tensor& source, DType tiled) {
  const int64_t rows = ops::tiled_rows(source.dim(0)), K = source.dim(1);
  std::vector<uint8_t> all(static_cast<size_t>(bytes_of(tiled, rows * K)));
  const Tensor to = Tensor::of(all.data(), tiled, Device::cpu(), {rows, K});
  ops::tile_weight(Exec{}, {.source = source, .tiled = to});
  return all;
}

TEST(DeviceUploadTest, CodesInSeveralPieces) {
  constexpr int64_t kRows = 1100, kColumns = 1 << 16;  // more than one staging block
  std::vector<uint8_t> codes(static_cast<size_t>(kRows * kColumns));
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * 2654435761u >> 24);
  const Tensor source = Tensor::of(codes.data(), DType::f8e4m3, Device::cpu(), {kRows, kColumns});
  EXPECT_TRUE(upload_tiles(source, DType::f8e4m3x64) == tiles_of(source, DType::f8e4m3x64));
}

TEST(DeviceUploadTest, FloatsBecomeBf16) {
  constexpr int64_t kRows = 70, kColumns = 128;
  std::vector<float> values(kRows * kColumns);
  std::vector<uint16_t> rounded(values.size());
  for (size_t i = 0; i < values.size(); ++i) values[i] = 0.37f * static_cast<float>(i) - 1000.0f;
  std::transform(values.begin(), values.end(), rounded.begin(), float_to_bf16);
  const Tensor source = Tensor::of(values.data(), DType::f32, Device::cpu(), {kRows, kColumns});
  const Tensor wanted = Tensor::of(rounded.data(), DType::bf16, Device::cpu(), {kRows, kColumns});
  EXPECT_TRUE(upload_tiles(source, DType::bf16x64) == tiles_of(wanted, DType::bf16x64));
}

}  // namespace
}  // namespace fathom::weights
