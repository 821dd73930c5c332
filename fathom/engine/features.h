// The table of named optimisations, resolved once at start: which are on, and why. Immutable
// afterwards. No floor below engine sees it: engine turns the set into plain options.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/base/result.h"

namespace fathom::engine {

enum class Feature : uint8_t {
#define FATHOM_FEATURE(name, on, promise, home, summary) name,
#include "fathom/engine/features.def"
#undef FATHOM_FEATURE
};

enum class Promise : uint8_t { same, close, lossy };

struct FeatureRow {
  std::string_view name;
  bool default_on;
  Promise promise;
  std::string_view home;
  std::string_view summary;
};

inline constexpr FeatureRow kFeatures[] = {
#define FATHOM_FEATURE(name, on, promise, home, summary) \
  {#name, on, Promise::promise, home, summary},
#include "fathom/engine/features.def"
#undef FATHOM_FEATURE
};
inline constexpr size_t kFeatureCount = std::size(kFeatures);

class Features {
 public:
  // `switches`: "+name", "-name" or "baseline" (all off), left to right; several may share one
  // string, with commas.
  static Result<Features> resolve(const std::vector<std::string>& switches);

  bool on(Feature feature) const { return on_[static_cast<size_t>(feature)]; }
  // "default" or the switch that decided.
  const std::string& reason(Feature feature) const {
    return reasons_[static_cast<size_t>(feature)];
  }

 private:
  std::array<bool, kFeatureCount> on_{};
  std::array<std::string, kFeatureCount> reasons_;
};

// How often each feature did its work; counted by the one thread that does it, read by any.
class FeatureHits {
 public:
  void set(Feature feature, int64_t hits) { hits_[static_cast<size_t>(feature)] = hits; }
  void add(Feature feature, int64_t hits = 1) { hits_[static_cast<size_t>(feature)] += hits; }
  int64_t of(Feature feature) const { return hits_[static_cast<size_t>(feature)]; }

 private:
  std::array<std::atomic<int64_t>, kFeatureCount> hits_{};
};

}  // namespace fathom::engine
