// The benches. Each adds its flags under `fathom bench`.
#pragma once

#include "apps/commands.h"

namespace fathom::apps {

Command bench_one_batch_command(CLI::App& bench);
Command bench_feature_command(CLI::App& bench);

}  // namespace fathom::apps
