// DeviceUpload: how weights come to a GPU. Matrices become BF16 on their way through two
// page-locked blocks that take turns: the host converts one while the other is copied.
#pragma once

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
  // A contiguous host tensor as it is; complete on return.
  Result<void> copy(const Tensor& host, const Tensor& to);
  void finish();

 private:
  Result<void> begin();
  void convert(const Tensor& source, Range rows, uint16_t* block) const;

  const Exec& exec_;
  MemoryLedger& ledger_;
  std::unique_ptr<DeviceQueue> queue_;
  HostBlock blocks_[2];
  int turn_ = 0;
};

}  // namespace fathom::weights
