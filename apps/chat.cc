// fathom chat: a conversation in the terminal.
#include <iostream>

#include "apps/commands.h"
#include "apps/options.h"
#include "apps/session.h"
#include "fathom/base/json.h"

namespace fathom::apps {
namespace {

struct Options {
  engine::Config config;
  plan::SamplingParams sampling{.temperature = 0.0f, .max_new_tokens = 1024};
  std::string system;
};

// Reads one line; false at the end of the input or at /exit.
bool read_line(std::string& line) {
  std::cout << "\n> " << std::flush;
  return static_cast<bool>(std::getline(std::cin, line)) && line != "/exit";
}

Result<std::string> answer(engine::Engine& engine, const Options& options, const Json& messages) {
  Result<std::vector<plan::Token>> prompt = chat_prompt(engine, messages, nullptr);
  if (!prompt) return prompt.error();
  plan::Request request;
  request.prompt = std::move(*prompt);
  request.sampling = options.sampling;
  std::string text;
  const Result<Timing> timing = complete(engine, std::move(request), [&](const std::string& piece) {
    text += piece;
    std::cout << piece << std::flush;
  });
  std::cout << '\n';
  if (!timing) return timing.error();
  return text;
}

int chat(const Options& options) {
  Result<std::unique_ptr<engine::Engine>> engine = open_engine(options.config);
  if (!engine) {
    std::cerr << "fathom chat: " << engine.error().message << '\n';
    return 1;
  }
  std::cout << "/exit ends, /new starts over.\n";
  Json messages = Json::array();
  const auto start_over = [&] {
    messages = Json::array();
    if (!options.system.empty())
      messages.push_back({{"role", "system"}, {"content", options.system}});
  };
  start_over();
  for (std::string line; read_line(line);) {
    if (line.empty()) continue;
    if (line == "/new") {
      start_over();
      continue;
    }
    messages.push_back({{"role", "user"}, {"content", line}});
    const Result<std::string> text = answer(**engine, options, messages);
    if (text) {
      messages.push_back({{"role", "assistant"}, {"content", *text}});
    } else {
      std::cerr << "fathom chat: " << text.error().message << '\n';
      messages.erase(messages.size() - 1);
    }
  }
  return 0;
}

}  // namespace

Command chat_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("chat", "talk to a model in the terminal");
  command->add_option("--system", options->system, "system message");
  add_sampling_options(*command, options->sampling);
  add_engine_options(*command, options->config);
  return {command, [options] { return chat(*options); }};
}

}  // namespace fathom::apps
