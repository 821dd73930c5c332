// fathom generate: one prompt, its answer token by token.
#include <iostream>

#include "apps/commands.h"
#include "apps/options.h"
#include "apps/session.h"
#include "fathom/base/json.h"
#include "fathom/text/tokenizer.h"

namespace fathom::apps {
namespace {

struct Options {
  engine::Config config;
  plan::SamplingParams sampling{.temperature = 0.0f, .max_new_tokens = 256};
  std::string prompt;
  bool raw = false;
  bool quiet = false;
};

int generate(const Options& options) {
  Result<std::unique_ptr<engine::Engine>> engine = open_engine(options.config);
  if (!engine) {
    std::cerr << "fathom generate: " << engine.error().message << '\n';
    return 1;
  }
  Result<std::vector<plan::Token>> prompt =
      options.raw
          ? Result((*engine)->tokenizer().encode(options.prompt))
          : chat_prompt(
                **engine, Json::array({{{"role", "user"}, {"content", options.prompt}}}), nullptr
            );
  if (!prompt) {
    std::cerr << "fathom generate: " << prompt.error().message << '\n';
    return 1;
  }
  plan::Request request;
  request.prompt = std::move(*prompt);
  request.sampling = options.sampling;
  const Result<Timing> timing = complete(**engine, std::move(request), [](const std::string& text) {
    std::cout << text << std::flush;
  });
  std::cout << '\n';
  if (!timing) {
    std::cerr << "fathom generate: " << timing.error().message << '\n';
    return 1;
  }
  if (!options.quiet) {
    std::cerr << fmt::format(
        "[{} prompt tokens, first token after {:.0f} ms; {} tokens{}]\n",
        timing->usage.prompt_tokens,
        timing->first_token_seconds * 1e3,
        timing->usage.completion_tokens,
        timing->usage.completion_tokens > 1
            ? fmt::format(" at {:.1f} tokens/s", timing->decode_tokens_per_second())
            : ""
    );
  }
  return 0;
}

}  // namespace

Command generate_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "answer one prompt");
  command->add_option("prompt", options->prompt, "the prompt")->required();
  command->add_flag("--raw", options->raw, "send the prompt as it is, without the chat template");
  command->add_flag("-q,--quiet", options->quiet, "print the answer alone");
  add_sampling_options(*command, options->sampling);
  add_engine_options(*command, options->config);
  return {command, [options] { return generate(*options); }};
}

}  // namespace fathom::apps
