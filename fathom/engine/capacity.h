// How large the steps and the KV cache are: from flags, model and memory to the scheduler's
// numbers.
#pragma once

#include <optional>

#include "fathom/engine/engine.h"
#include "fathom/engine/features.h"
#include "fathom/layers/kv_cache.h"
#include "fathom/runtime/draft_tree.h"
#include "fathom/runtime/runner.h"
#include "fathom/sched/options.h"

namespace fathom::engine {

// How to draft; nothing when feature nextn is off. The Error names the flag.
Result<std::optional<runtime::Speculation>> speculation(
    const Config& config, const Features& features
);

// Everything but `pages` and `end_tokens`. context: positions that the model was made for.
Result<sched::SchedulerOptions> step_capacities(
    const Config& config, const Features& features, int64_t context, plan::Lookahead lookahead
);

// Pages for `config.max_total_tokens`, or for what the device's free memory allows, the dummy page
// included.
Result<int> kv_pages(
    const Config& config, Device device, const layers::KvLayout& layout, int context
);

// The largest step that a scheduler with these options plans.
runtime::StepCapacity largest_step(const sched::SchedulerOptions& options);

}  // namespace fathom::engine
