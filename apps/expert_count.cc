#include "apps/expert_count.h"

#include <fmt/format.h>

#include <set>

#include "fathom/core/host_copy.h"

namespace fathom::apps {

std::function<void(std::string_view, const Tensor&)> ExpertCount::probe(const Exec& exec) {
  return [this, &exec](std::string_view name, const Tensor& t) {
    if (!on_ || name != "moe.ids") return;
    Tensor ids = t;
    HostCopies copies(exec);
    if (exec.device.is_cuda()) copies.fetch(ids, Role::in);
    std::set<int32_t> distinct;
    for (int64_t i = 0; i < ids.elements(); ++i) distinct.insert(ids.as<int32_t>()[i]);
    distinct_ += static_cast<int64_t>(distinct.size());
    ++layers_;
  };
}

std::string ExpertCount::summary(int steps) const {
  if (layers_ == 0) return "";
  return fmt::format(
      "{:.1f} distinct experts a layer ({} layers a step)",
      static_cast<double>(distinct_) / static_cast<double>(layers_),
      layers_ / steps
  );
}

}  // namespace fathom::apps
