#include "fathom/weights/device_upload.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "fathom/ops/gemm/pack_weight.h"

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

Result<void> DeviceUpload::matrix(const Tensor& source, const Tensor& to) {
  if (Result<void> ready = begin(); !ready) return ready;
  const int64_t row_bytes = 2 * source.dim(1), step = kBlockBytes / row_bytes;
  CHECK(step > 0, "rows of {} bytes", row_bytes);
  for (int64_t from = 0; from < source.dim(0); from += step) {
    const Range rows{from, std::min(from + step, source.dim(0))};
    auto* block = static_cast<uint16_t*>(blocks_[turn_].data());
    queue_->wait(turn_);
    convert(source, rows, block);
    auto* place = static_cast<uint8_t*>(to.data) + from * row_bytes;
    queue_->upload(place, block, (rows.end - rows.begin) * row_bytes);
    queue_->mark(turn_);
    turn_ ^= 1;
  }
  return {};
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
