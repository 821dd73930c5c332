// DeviceUpload: how weights come to a GPU. Matrices become BF16 or tiles (ops/gemm/weight_tiles.h)
// on their way through two page-locked blocks that take turns: the host converts one while the
// other is copied.
#pragma once

#include <functional>
#include <memory>

#include "fathom/core/device_queue.h"
#include "fathom/core/exec.h"

namespace fathom::weights {

class DeviceUpload {
 public:
  DeviceUpload(const Exec& exec, MemoryLedger& ledger) : exec_(exec), ledger_(ledger) {}

  // source [N, K] (plain float or GGUF blocks, host) into `to` [N, K], BF16 on the GPU. Complete
  // when finish() returns; `source` is free at once.
  Result<void> matrix(const Tensor& source, const Tensor& to);
  // source [N, K] (plain float or FP8 codes, host) into `to` [N, K], tiles of BF16 or of FP8 that
  // begin at a multiple of 64 rows.
  Result<void> tiles(const Tensor& source, const Tensor& to);
  // A contiguous host tensor as it is; complete on return.
  Result<void> copy(const Tensor& host, const Tensor& to);
  void finish();

 private:
  Result<void> begin();
  void convert(const Tensor& source, Range rows, uint16_t* block) const;
  void tile(const Tensor& source, Range rows, void* block) const;
  // fill(rows, block) for pieces of up to `unit` rows' multiples, each copied behind the last.
  Result<void> by_blocks(
      int64_t rows,
      int64_t row_bytes,
      int64_t unit,
      const Tensor& to,
      const std::function<void(Range, void*)>& fill
  );

  const Exec& exec_;
  MemoryLedger& ledger_;
  std::unique_ptr<DeviceQueue> queue_;
  HostBlock blocks_[2];
  int turn_ = 0;
};

}  // namespace fathom::weights
