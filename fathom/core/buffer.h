// Buffer: the only owner of tensor memory. Move-only, 64-byte aligned (256 on CUDA), created with a
// purpose that the ledger counts. Allocation happens at start-up only; a failed one is an Error
// that says what holds the memory.
#pragma once

#include <cstdint>

#include "fathom/base/result.h"
#include "fathom/core/device.h"
#include "fathom/core/memory_ledger.h"

namespace fathom {

class Buffer {
 public:
  // Zero-filled. `ledger` must outlive the Buffer.
  static Result<Buffer> allocate(
      MemoryLedger& ledger, Device device, int64_t bytes, Purpose purpose
  );

  Buffer() = default;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  Device device_ = {};
  Purpose purpose_ = Purpose::workspace;
  MemoryLedger* ledger_ = nullptr;
};

}  // namespace fathom
