// What an op does with one of its tensors.
#pragma once

#include <cstdint>

namespace fathom {

// weight: nothing writes it during a step, so a decode kernel may read it before it waits for its
// predecessor.
enum class Role : uint8_t { in, weight, out, inout };

inline bool is_written(Role role) {
  return role == Role::out || role == Role::inout;
}

}  // namespace fathom
