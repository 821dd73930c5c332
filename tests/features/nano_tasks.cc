#include "nano_tasks.h"

#include <fstream>

#include "fathom/base/json.h"
#include "fathom/text/chat_template.h"
#include "fathom/text/tokenizer.h"

namespace fathom::testing {

engine::Config nano_config(std::vector<std::string> features) {
  engine::Config config;
  config.model_path = "models/nano-deepseek";
  config.device = "cpu";
  config.threads = 1;
  config.max_total_tokens = 16384;
  config.max_running_requests = 8;
  config.features = std::move(features);
  return config;
}

std::unique_ptr<engine::Engine> open_nano(const engine::Config& config) {
  Result<std::unique_ptr<engine::Engine>> engine = engine::Engine::open(config);
  CHECK(engine.ok(), "{}", engine.error().message);
  return std::move(*engine);
}

std::vector<plan::Request> nano_requests(
    const engine::Engine& engine, int each, int max_new_tokens
) {
  std::vector<plan::Request> requests;
  for (const char* family :
       {"math", "json", "tools", "strings", "multiturn", "prose", "recall", "calc"}) {
    const std::string path = fmt::format("models/nano-deepseek/eval/{}.jsonl", family);
    std::ifstream file(path);
    std::string line;
    for (int i = 0; i < each && std::getline(file, line); ++i) {
      const Result<Json> task = parse_json(line, path);
      CHECK(task.ok(), "{}", task.error().message);
      text::ChatInput input;
      input.messages = (*task)["messages"];
      input.tools = task->value("tools", Json());
      const Result<std::string> prompt = engine.chat_template()->render(input);
      CHECK(prompt.ok(), "{}", prompt.error().message);
      plan::Request request;
      request.prompt = engine.tokenizer().encode(*prompt, {.add_special_tokens = false});
      request.sampling.temperature = 0.0f;
      request.sampling.max_new_tokens = max_new_tokens;
      requests.push_back(std::move(request));
    }
  }
  return requests;
}

}  // namespace fathom::testing
