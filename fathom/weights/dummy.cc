#include "fathom/weights/dummy.h"

#include <algorithm>
#include <cstring>

#include "fathom/ops/element.h"

namespace fathom::weights {
namespace {

constexpr float kHalfWidth = 0.035f;  // of a uniform law with deviation 0.02
constexpr int64_t kGrain = 4096;

// SplitMix64's output function: counter in, well-mixed bits out.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t hash(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : text) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return h;
}

}  // namespace

void fill_dummy(const Exec& exec, const Dummy& dummy, std::string_view name, const Tensor& t) {
  CHECK(t.contiguous(), "random weights for {}", t.describe());
  const uint64_t stream = mix(dummy.seed ^ hash(name));
  const float centre = name.ends_with("norm.weight") ? 1.0f : 0.0f;
  exec.parallel_for(t.elements(), kGrain, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      const uint64_t bits = mix(stream + static_cast<uint64_t>(i));
      const float unit = static_cast<float>(bits >> 40) * 0x1p-23f - 1.0f;  // [-1, 1)
      ops::store_element(t, i, centre + kHalfWidth * unit);
    }
  });
}

void fill_dummy_codes(
    const Exec& exec, const Dummy& dummy, std::string_view name, const Tensor& t
) {
  CHECK(t.contiguous() && t.dtype == DType::f8e4m3, "random codes for {}", t.describe());
  // Magnitudes below 2: the upper half of the exponents, and NaN with it, is out.
  constexpr uint64_t kBelowTwo = 0xbfbfbfbfbfbfbfbfu;
  constexpr int64_t kCodes = sizeof(uint64_t);
  const uint64_t stream = mix(dummy.seed ^ hash(name));
  auto* codes = t.as<uint8_t>();
  exec.parallel_for(t.elements(), kGrain, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; i += kCodes) {
      const uint64_t bits = mix(stream + static_cast<uint64_t>(i)) & kBelowTwo;
      std::memcpy(codes + i, &bits, static_cast<size_t>(std::min(kCodes, range.end - i)));
    }
  });
}

}  // namespace fathom::weights
