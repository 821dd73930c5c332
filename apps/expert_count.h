// ExpertCount: how many distinct experts the MoE layers of decode steps read. Routed traffic
// decides a step's bytes, and tokens of dummy weights route alike: a step's time means little
// without it.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "fathom/core/exec.h"

namespace fathom::apps {

class ExpertCount {
 public:
  // To be Exec::probe, which keeps steps from being replayed as graphs. Waits for the device.
  std::function<void(std::string_view, const Tensor&)> probe(const Exec& exec);

  void enable(bool on) { on_ = on; }
  // "12.4 distinct experts a layer (26 layers a step)"; empty where no layer has experts.
  std::string summary(int steps) const;

 private:
  bool on_ = false;
  int64_t layers_ = 0, distinct_ = 0;
};

}  // namespace fathom::apps
