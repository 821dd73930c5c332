// Scheduler options for simulations.
#pragma once

#include <string>

#include "fathom/sched/options.h"
#include "tests/engine/sim/device.h"

namespace fathom::sim {

// Any legal options, pool from the smallest useful to ample.
sched::SchedulerOptions random_options(Random& random);

// Options in which nothing is short, for tests that change one thing.
sched::SchedulerOptions ample_options();

std::string describe(const sched::SchedulerOptions& options);

}  // namespace fathom::sim
