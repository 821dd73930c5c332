// An engine for a command that talks to it directly: opened from flags, one request at a time, text
// as it comes.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "fathom/engine/engine.h"

namespace fathom::apps {

// What a finished request cost.
struct Timing {
  double first_token_seconds = 0;  // from submit
  double total_seconds = 0;
  plan::Usage usage;
  double decode_tokens_per_second() const {
    const double seconds = total_seconds - first_token_seconds;
    return usage.completion_tokens > 1 && seconds > 0 ? (usage.completion_tokens - 1) / seconds : 0;
  }
};

// Resolves the model and opens the engine.
Result<std::unique_ptr<engine::Engine>> open_engine(engine::Config config);

// Submits and waits; `on_text` is called with each piece of choice 0. The Error carries a refusal
// or a failure.
Result<Timing> complete(
    engine::Engine& engine,
    plan::Request request,
    const std::function<void(const std::string&)>& on_text
);

// The prompt of `messages`, and of `tools` where not null, in the model's chat form; the messages'
// plain text with a blank line when it has no template.
Result<std::vector<plan::Token>> chat_prompt(
    const engine::Engine& engine, const Json& messages, const Json& tools
);

}  // namespace fathom::apps
