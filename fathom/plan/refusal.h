// Why a request was not accepted (contracts.md S1).
#pragma once

#include <cstdint>
#include <string>

namespace fathom::plan {

enum class RefusalKind : uint8_t { none, draining, queue_full, too_long, invalid };

struct Refusal {
  RefusalKind kind = RefusalKind::none;
  std::string message;
  int retry_after_seconds = 0;  // with queue_full
  bool refused() const { return kind != RefusalKind::none; }
};

}  // namespace fathom::plan
