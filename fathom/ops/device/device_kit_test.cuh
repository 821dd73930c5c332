// What the device kit's tests share.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "fathom/core/cuda/cuda_memory.h"
#include "fathom/core/cuda/launch.cuh"
#include "fathom/testing/cuda/device_bench.h"

namespace fathom::device {

class DeviceKit : public ::testing::Test {
 protected:
  DeviceKit() : device_(Device::cuda()) {}

  // Copies host values to memory that lives as long as the test.
  template <class T>
  T* upload(const std::vector<T>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    buffers_.push_back(
        std::move(*Buffer::allocate(ledger_, Device::cuda(), bytes, Purpose::workspace))
    );
    cuda::copy_to_device(buffers_.back().data(), values.data(), bytes);
    return static_cast<T*>(buffers_.back().data());
  }
  template <class T>
  std::vector<T> download(const T* data, size_t count) {
    cuda::synchronize(Device::cuda());
    std::vector<T> values(count);
    cuda::copy_to_host(values.data(), data, static_cast<int64_t>(count * sizeof(T)));
    return values;
  }
  const Exec& exec() { return device_.exec(); }

  testing::DeviceExec device_;
  MemoryLedger ledger_;
  std::vector<Buffer> buffers_;
};

}  // namespace fathom::device
