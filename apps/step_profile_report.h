// The table of `bench one-batch --profile`: where a decode step's time goes on the step thread.
#pragma once

#include <vector>

#include "fathom/core/step_profile.h"

namespace fathom::apps {

// seconds and profiles of each step; printed is the mean of the middle half of them by time, so
// that a step in which another process had the CPU does not count.
void print_step_profile(
    const std::vector<double>& seconds, const std::vector<StepProfile>& profiles
);

}  // namespace fathom::apps
