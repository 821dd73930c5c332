#include "fathom/ops/sample/largest.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace fathom::ops {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kBlock = 512;  // elements whose largest is looked for at once
constexpr float kLeast = -std::numeric_limits<float>::infinity();

using Lanes = std::array<float, kLanes>;

// The largest of z [n], in loops that compilers turn into vectors. `watch` sums to NaN when an
// element is not finite: 0 * inf is NaN too.
float largest_value(const float* z, int64_t n, Lanes& watch) {
  Lanes most;
  most.fill(kLeast);
  int64_t v = 0;
  for (; v + kLanes <= n; v += kLanes) {
    for (size_t i = 0; i < kLanes; ++i) {
      const float x = z[v + static_cast<int64_t>(i)];
      most[i] = x > most[i] ? x : most[i];
      watch[i] += x * 0.0f;
    }
  }
  for (; v < n; ++v) {
    most[0] = z[v] > most[0] ? z[v] : most[0];
    watch[0] += z[v] * 0.0f;
  }
  return *std::ranges::max_element(most);
}

}  // namespace

Largest largest_of(const float* z, int64_t n) {
  Largest best{.value = kLeast};
  Lanes watch{};
  int64_t from = 0;  // of the block that holds it
  for (int64_t block = 0; block < n; block += kBlock) {
    const float value = largest_value(z + block, std::min(kBlock, n - block), watch);
    if (!(value > best.value)) continue;
    best.value = value;
    from = block;
  }
  if (best.value > kLeast) best.index = std::find(z + from, z + n, best.value) - z;
  best.finite = std::ranges::none_of(watch, [](float w) { return std::isnan(w); });
  return best;
}

}  // namespace fathom::ops
