// The two clocks of the server: steady for durations, wall for `created` stamps.
#pragma once

#include <chrono>
#include <cstdint>

namespace fathom::server {

inline double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch()
  )
      .count();
}

}  // namespace fathom::server
