#include "fathom/weights/device_upload.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/weight_tiles.h"

namespace fathom::weights {
namespace {

constexpr int64_t kBlockBytes = int64_t{64} << 20;

}  // namespace

Result<void> DeviceUpload::begin() {
  if (queue_ != nullptr) return {};
  queue_ = DeviceQueue::open(exec_.device);
  for (HostBlock& block : blocks_) {
    Result<HostBlock> made = HostBlock::allocate(ledger_, exec_.device, kBlockBytes);
    if (!made) return made.error();
    block = std::move(*made);
  }
  for (const int turn : {0, 1}) queue_->mark(turn);
  return {};
}

void DeviceUpload::convert(const Tensor& source, Range rows, uint16_t* block) const {
  const int64_t K = source.dim(1);
  exec_.parallel_for(rows.end - rows.begin, 1, [&](Range part) {
    std::vector<float> values(static_cast<size_t>(K));
    for (int64_t r = part.begin; r < part.end; ++r) {
      const int64_t n = rows.begin + r;
      if (source.dtype == DType::bf16) {
        std::memcpy(block + r * K, source.row(n).data, static_cast<size_t>(2 * K));
        continue;
      }
      ops::decode_row(source, n, values.data());
      std::transform(values.begin(), values.end(), block + r * K, float_to_bf16);
    }
  });
}

void DeviceUpload::tile(const Tensor& source, Range rows, void* block) const {
  const int64_t n = rows.end - rows.begin, K = source.dim(1);
  const bool codes = source.dtype == DType::f8e4m3 || source.dtype == DType::i8;
  Tensor plain = source.slice(0, rows.begin, n);
  std::vector<uint16_t> rounded;
  if (!codes && source.dtype != DType::bf16) {
    rounded.resize(static_cast<size_t>(n * K));
    convert(source, rows, rounded.data());
    plain = Tensor::of(rounded.data(), DType::bf16, Device::cpu(), {n, K});
  }
  const DType tiled = ops::tiled_dtype(plain.dtype, K);
  ops::tile_weight(
      exec_,
      {.source = plain, .tiled = Tensor::of(block, tiled, Device::cpu(), {ops::tiled_rows(n), K})}
  );
}

Result<void> DeviceUpload::by_blocks(
    int64_t rows,
    int64_t row_bytes,
    int64_t unit,
    const Tensor& to,
    const std::function<void(Range, void*)>& fill
) {
  if (Result<void> ready = begin(); !ready) return ready;
  const int64_t step = kBlockBytes / row_bytes / unit * unit;
  CHECK(step > 0, "rows of {} bytes", row_bytes);
  for (int64_t from = 0; from < rows; from += step) {
    const Range piece{from, std::min(from + step, rows)};
    const int64_t stored = (piece.end - piece.begin + unit - 1) / unit * unit;
    void* block = blocks_[turn_].data();
    queue_->wait(turn_);
    fill(piece, block);
    queue_->upload(static_cast<uint8_t*>(to.data) + from * row_bytes, block, stored * row_bytes);
    queue_->mark(turn_);
    turn_ ^= 1;
  }
  return {};
}

Result<void> DeviceUpload::matrix(const Tensor& source, const Tensor& to) {
  return by_blocks(source.dim(0), 2 * source.dim(1), 1, to, [&](Range rows, void* block) {
    convert(source, rows, static_cast<uint16_t*>(block));
  });
}

Result<void> DeviceUpload::tiles(const Tensor& source, const Tensor& to) {
  const int64_t row_bytes = bytes_of(to.dtype, source.dim(1));
  return by_blocks(source.dim(0), row_bytes, ops::kTileRows, to, [&](Range rows, void* block) {
    tile(source, rows, block);
  });
}

Result<void> DeviceUpload::copy(const Tensor& host, const Tensor& to) {
  if (Result<void> ready = begin(); !ready) return ready;
  queue_->upload(to.data, host.data, host.bytes());
  queue_->wait_all();
  return {};
}

void DeviceUpload::finish() {
  if (queue_ != nullptr) queue_->wait_all();
}

}  // namespace fathom::weights
