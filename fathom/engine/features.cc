#include "fathom/engine/features.h"

#include <algorithm>
#include <sstream>

#include "fathom/base/suggest.h"

namespace fathom::engine {
namespace {

std::vector<std::string_view> feature_names() {
  std::vector<std::string_view> names = {"baseline"};
  for (const FeatureRow& row : kFeatures) names.push_back(row.name);
  return names;
}

}  // namespace

Result<Features> Features::resolve(const std::vector<std::string>& switches) {
  Features features;
  for (size_t i = 0; i < kFeatureCount; ++i) {
    features.on_[i] = kFeatures[i].default_on;
    features.reasons_[i] = "default";
  }
  for (const std::string& list : switches) {
    std::istringstream items(list);
    for (std::string item; std::getline(items, item, ',');) {
      if (item.empty()) continue;
      const bool off = item[0] == '-';
      const std::string name = off || item[0] == '+' ? item.substr(1) : item;
      if (name == "baseline") {
        features.on_.fill(false);
        features.reasons_.fill("baseline");
        continue;
      }
      const auto* row =
          std::find_if(std::begin(kFeatures), std::end(kFeatures), [&](const FeatureRow& r) {
            return r.name == name;
          });
      if (row == std::end(kFeatures)) {
        return error(
            "--feature {}: no such feature; did you mean {}? `fathom doctor` lists them",
            item,
            nearest(name, feature_names())
        );
      }
      const size_t place = static_cast<size_t>(row - std::begin(kFeatures));
      features.on_[place] = !off;
      features.reasons_[place] = fmt::format("--feature {}{}", off ? "-" : "+", name);
    }
  }
  return features;
}

}  // namespace fathom::engine
