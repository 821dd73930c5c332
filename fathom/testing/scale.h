// Sizes of random tests.
#pragma once

#include <algorithm>

namespace fathom::testing {

// `count`, or a twentieth of it under sanitizers, which make everything slow.
inline int scaled(int count) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return std::max(count / 20, 1);
#else
  return count;
#endif
}

}  // namespace fathom::testing
