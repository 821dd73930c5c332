#include "fathom/server/call.h"

namespace fathom::server {

plan::Usage Call::total() const {
  plan::Usage sum;
  for (const auto& prompt : prompts) sum.prompt_tokens += static_cast<int>(prompt.size());
  for (size_t i = 0; i < choices.size(); ++i) {
    sum.completion_tokens += choices[i].usage.completion_tokens;
    if (i % static_cast<size_t>(n) == 0) sum.cached_tokens += choices[i].usage.cached_tokens;
  }
  return sum;
}

const std::string* Call::failure() const {
  for (const Choice& choice : choices) {
    if (choice.finish == plan::FinishReason::failed) return &choice.error;
  }
  return nullptr;
}

}  // namespace fathom::server
