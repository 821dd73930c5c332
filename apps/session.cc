#include "apps/session.h"
#include "fathom/base/json.h"

#include <atomic>
#include <chrono>
#include <future>

#include "apps/options.h"
#include "fathom/text/chat_template.h"
#include "fathom/text/tokenizer.h"

namespace fathom::apps {

Result<std::unique_ptr<engine::Engine>> open_engine(engine::Config config) {
  Result<std::string> model = resolve_model(config.model_path);
  if (!model) return model.error();
  config.model_path = *model;
  return engine::Engine::open(std::move(config));
}

Result<Timing> complete(
    engine::Engine& engine,
    plan::Request request,
    const std::function<void(const std::string&)>& on_text
) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  struct Shared {
    Timing timing;
    std::string failure;
    std::promise<void> done;
  };
  const auto shared = std::make_shared<Shared>();
  const Clock::time_point start = Clock::now();
  static std::atomic<int> serial{0};
  if (request.id.empty()) request.id = fmt::format("cli-{}", ++serial);
  request.sink = [shared, start, on_text, seconds_since](plan::OutputChunk&& chunk) {
    if (!chunk.tokens.empty() && shared->timing.first_token_seconds == 0) {
      shared->timing.first_token_seconds = seconds_since(start);
    }
    if (!chunk.text.empty()) on_text(chunk.text);
    if (!chunk.finish) return;
    shared->timing.total_seconds = seconds_since(start);
    shared->timing.usage = chunk.usage;
    if (*chunk.finish == plan::FinishReason::failed) shared->failure = chunk.error;
    shared->done.set_value();
  };
  const engine::Refusal refusal =
      engine.submit(std::make_shared<plan::Request>(std::move(request)));
  if (refusal.refused()) return Error{refusal.message};
  shared->done.get_future().wait();
  if (!shared->failure.empty()) return Error{shared->failure};
  return shared->timing;
}

Result<std::vector<plan::Token>> chat_prompt(
    const engine::Engine& engine, const Json& messages, const Json& tools
) {
  if (engine.chat_template() == nullptr) {
    std::string text;
    for (const Json& message : messages) text += message.at("content").get<std::string>() + "\n\n";
    return engine.tokenizer().encode(text);
  }
  text::ChatInput input;
  input.messages = messages;
  input.tools = tools;
  const Result<std::string> text = engine.chat_template()->render(input);
  if (!text) return text.error();
  return engine.tokenizer().encode(*text, {.add_special_tokens = false});
}

}  // namespace fathom::apps
