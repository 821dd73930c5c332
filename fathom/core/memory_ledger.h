// Who holds how much memory, by purpose and device; printed at start-up and when memory runs out.
// Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "fathom/core/device.h"

namespace fathom {

enum class Purpose : uint8_t { weights, kv, workspace, staging, graphs, comm };
inline constexpr std::array<std::string_view, 6> kPurposeNames = {
    "weights", "kv", "workspace", "staging", "graphs", "comm"};

class MemoryLedger {
 public:
  void add(Device device, Purpose purpose, int64_t bytes) { slot(device, purpose) += bytes; }
  int64_t bytes(Device device, Purpose purpose) const {
    return const_cast<MemoryLedger*>(this)->slot(device, purpose);
  }
  // One line per device: "cpu: weights 98.4 MB, kv 12.0 MB".
  std::string describe() const;

 private:
  static constexpr size_t kDevices = 9;  // the CPU and eight GPUs
  static size_t place(Device d) { return d.is_cpu() ? 0 : 1 + static_cast<size_t>(d.index) % 8; }
  std::atomic<int64_t>& slot(Device d, Purpose p) {
    return bytes_[place(d)][static_cast<size_t>(p)];
  }
  std::array<std::array<std::atomic<int64_t>, kPurposeNames.size()>, kDevices> bytes_{};
};

}  // namespace fathom
