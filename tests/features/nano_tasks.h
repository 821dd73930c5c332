// Requests made of nano-deepseek's evaluation tasks, and engines on it, for tests of features that
// need a trained DeepSeek checkpoint.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fathom/engine/engine.h"

namespace fathom::testing {

// One thread, pages of 16, eight requests at once.
engine::Config nano_config(std::vector<std::string> features);
std::unique_ptr<engine::Engine> open_nano(const engine::Config& config);

// The first `each` tasks of every family but the long ones (needle), as greedy requests of
// `max_new_tokens`.
std::vector<plan::Request> nano_requests(
    const engine::Engine& engine, int each, int max_new_tokens
);

}  // namespace fathom::testing
