// A predecessor that is late: it lets its successor start at once, sleeps, and only then writes the
// successor's inputs. A kernel that reads an activation before it waits for its predecessor sees
// poison and fails its case.
#pragma once

#include <cstdint>
#include <vector>

#include "fathom/core/exec.h"

namespace fathom::testing {

struct LateCopy {
  void* to = nullptr;
  const void* from = nullptr;
  int64_t bytes = 0;
};

// At most 24 copies, in one kernel on exec's stream.
void write_late(const Exec& exec, const std::vector<LateCopy>& copies);

}  // namespace fathom::testing
