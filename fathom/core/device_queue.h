// DeviceQueue: what the step thread gives its device, in order: copies, clears, graphs, marks. On
// the CPU everything happens at once, and host and device memory are the same. Errors of a CUDA
// device throw cuda::DeviceError.
//
// Thread rule: one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "fathom/base/result.h"
#include "fathom/core/buffer.h"
#include "fathom/core/device.h"

namespace fathom {

// Work captured once and replayed at fixed addresses.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  virtual int64_t nodes() const = 0;
};

class DeviceQueue {
 public:
  static std::unique_ptr<DeviceQueue> open(Device device);
  virtual ~DeviceQueue() = default;

  virtual void* stream() const = 0;  // for Exec::stream
  // Nothing happens when both are the same memory. `host` may be overwritten once the queue has
  // reached a later mark (at once when it is not page-locked).
  virtual void upload(void* device, const void* host, int64_t bytes) = 0;
  virtual void download(void* host, const void* device, int64_t bytes) = 0;
  virtual void clear(void* device, int64_t bytes) = 0;

  // Mark 0 or 1: everything that was given so far.
  virtual void mark(int which) = 0;
  virtual bool reached(int which) const = 0;
  virtual void wait(int which) const = 0;
  // For everything that was given so far.
  virtual void wait_all() const = 0;

  // True when work can be captured and replayed.
  virtual bool has_graphs() const = 0;
  virtual std::unique_ptr<DeviceGraph> capture(const std::function<void()>& work) = 0;
  virtual void replay(const DeviceGraph& graph) = 0;
};

// Host memory that a device's copies read and write: page-locked for a CUDA device.
class HostBlock {
 public:
  static Result<HostBlock> allocate(MemoryLedger& ledger, Device device, int64_t bytes);
  HostBlock() = default;
  void* data() const { return data_; }
  // The same memory, owned by this block alone.
  HostBlock view() const {
    HostBlock other;
    other.data_ = data_;
    return other;
  }

 private:
  Buffer memory_;                 // for the CPU
  std::shared_ptr<void> pinned_;  // for a CUDA device
  void* data_ = nullptr;
};

// What this machine's device is, for people; the Error says in one line what is missing.
Result<std::string> describe_device(Device device);
// Bytes of device memory that nobody holds.
int64_t free_device_bytes(Device device);

}  // namespace fathom
