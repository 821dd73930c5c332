#include "fathom/core/memory_ledger.h"

#include <fmt/core.h>

namespace fathom {

std::string MemoryLedger::describe() const {
  std::string text;
  for (size_t d = 0; d < kDevices; ++d) {
    std::string line;
    for (size_t p = 0; p < kPurposeNames.size(); ++p) {
      const int64_t bytes = bytes_[d][p];
      if (bytes == 0) continue;
      line += fmt::format(
          "{}{} {:.1f} MB",
          line.empty() ? "" : ", ",
          kPurposeNames[p],
          static_cast<double>(bytes) / 1e6
      );
    }
    if (line.empty()) continue;
    const Device device = d == 0 ? Device::cpu() : Device::cuda(static_cast<int>(d) - 1);
    text += fmt::format("{}{}: {}", text.empty() ? "" : "\n", device.describe(), line);
  }
  return text;
}

}  // namespace fathom
