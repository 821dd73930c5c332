// The largest of many floats, several at a time: what greedy draws and drafts take.
#pragma once

#include <cstdint>

namespace fathom::ops {

struct Largest {
  int64_t index = 0;   // of the first one; 0 where all are NaN or -inf
  float value = 0;     // -inf then
  bool finite = true;  // neither NaN nor an infinity is among the elements
};

// Of z [n]; NaNs are passed over.
Largest largest_of(const float* z, int64_t n);

}  // namespace fathom::ops
