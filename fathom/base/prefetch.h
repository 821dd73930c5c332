// Asking the caches for what is read next.
#pragma once

#include <cstddef>

namespace fathom {

// All lines of `object` at once. Worth it for what a step reads once, a layer's description among
// its weights: they have passed through every cache since, and one line after the other would be
// waited for.
template <class T>
void prefetch(const T& object) {
  const auto* bytes = reinterpret_cast<const char*>(&object);
  for (size_t line = 0; line < sizeof(T); line += 64) __builtin_prefetch(bytes + line);
}

}  // namespace fathom
