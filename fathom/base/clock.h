// The steady clock as a number.
#pragma once

#include <chrono>
#include <cstdint>

namespace fathom {

inline int64_t steady_nanoseconds() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace fathom
