#include "apps/bench_serving.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>

#include "apps/bench_serving_client.h"
#include "apps/bench_serving_dataset.h"
#include "apps/bench_serving_report.h"

namespace fathom::apps {
namespace {

struct Options {
  std::string backend = "fathom";
  std::string base_url;
  Endpoint endpoint;
  std::string model;
  DatasetOptions dataset;
  LoadOptions load;
  int warmup_requests = 1;
  bool flush_cache = false;
  bool disable_ignore_eos = false;
  std::string output_file;
  bool output_details = false;
};

bool is_native(const Options& options) {
  return options.backend == "sglang";
}

// /v1/completions: pieces of text, usage in the last event.
bool read_completion_event(const Json& event, LoadResult& result) {
  if (event.contains("error")) {
    result.error = event["error"].dump();
    return false;
  }
  const Json choices = event.value("choices", Json::array());
  if (!choices.empty()) result.text += choices[0].value("text", "");
  const Json usage = event.value("usage", Json());
  if (usage.is_object()) result.output_tokens = usage.value("completion_tokens", 0);
  return true;
}

// /generate: the text so far in every event.
bool read_generate_event(const Json& event, LoadResult& result) {
  if (event.contains("error")) {
    result.error = event["error"].dump();
    return false;
  }
  result.text = event.value("text", result.text);
  result.output_tokens = event.value("meta_info", Json::object()).value("completion_tokens", 0);
  return true;
}

Json prompt_json(const BenchPrompt& prompt) {
  const auto* text = std::get_if<std::string>(&prompt.prompt);
  return text ? Json(*text) : Json(std::get<std::vector<plan::Token>>(prompt.prompt));
}

LoadRequest make_request(const Options& options, const BenchPrompt& prompt) {
  const bool text = std::holds_alternative<std::string>(prompt.prompt);
  const bool ignore_eos = !options.disable_ignore_eos;
  Json body;
  if (is_native(options)) {
    body = {
        {text ? "text" : "input_ids", prompt_json(prompt)},
        {"sampling_params",
         {{"temperature", 0.0},
          {"max_new_tokens", prompt.output_tokens},
          {"ignore_eos", ignore_eos}}},
        {"stream", true}};
    return {"/generate", body.dump()};
  }
  body = {
      {"model", options.model},
      {"prompt", prompt_json(prompt)},
      {"temperature", 0.0},
      {"max_tokens", prompt.output_tokens},
      {"stream", true},
      {"stream_options", {{"include_usage", true}}},
      {"ignore_eos", ignore_eos}};
  return {"/v1/completions", body.dump()};
}

Result<std::vector<plan::Token>> tokenize(const Options& options, const std::string& text) {
  const Json body = {{"model", options.model}, {"prompt", text}};
  auto answer = fetch(
      options.endpoint,
      "POST",
      "/tokenize",
      body.dump(-1, ' ', false, Json::error_handler_t::replace)
  );
  if (!answer.ok()) return answer.error();
  auto json = parse_json(*answer, "/tokenize");
  if (!json.ok()) return json.error();
  if (!json->is_object() || !json->contains("tokens") || !(*json)["tokens"].is_array()) {
    return error("/tokenize answered without 'tokens': {}", *answer);
  }
  return (*json)["tokens"].get<std::vector<plan::Token>>();
}

// http://host:port[/...]
Result<void> read_base_url(Options& options) {
  if (options.base_url.empty()) return {};
  constexpr std::string_view kScheme = "http://";
  std::string_view rest = options.base_url;
  if (!rest.starts_with(kScheme))
    return error("--base-url '{}' must begin with http://", options.base_url);
  rest = rest.substr(kScheme.size());
  rest = rest.substr(0, rest.find('/'));
  const size_t colon = rest.rfind(':');
  options.endpoint.host = std::string(rest.substr(0, colon));
  options.endpoint.port =
      colon == std::string_view::npos ? "80" : std::string(rest.substr(colon + 1));
  return {};
}

Result<void> find_model(Options& options) {
  if (!options.model.empty()) return {};
  auto answer = fetch(options.endpoint, "GET", "/v1/models");
  if (!answer.ok()) return answer.error();
  auto json = parse_json(*answer, "/v1/models");
  if (!json.ok()) return json.error();
  const Json models = json->value("data", Json::array());
  if (models.empty() || !models[0].contains("id"))
    return error("/v1/models lists no model; give --model");
  options.model = models[0]["id"].get<std::string>();
  return {};
}

Result<void> warm_up(const Options& options, const BenchPrompt& prompt, EventReader reader) {
  if (options.warmup_requests == 0) return {};
  constexpr int kMostTokens = 32;
  BenchPrompt shortened = prompt;
  shortened.output_tokens = std::min(kMostTokens, prompt.output_tokens);
  const std::vector<LoadRequest> requests(
      static_cast<size_t>(options.warmup_requests), make_request(options, shortened)
  );
  const Load load = run_load(options.endpoint, requests, reader, {.show_progress = false});
  for (const LoadResult& result : load.results) {
    if (!result.success) return error("the warm-up request failed: {}", result.error);
  }
  return {};
}

// Tokens of all texts, tokenised again; what an engine counts and what its text is may differ.
Result<int64_t> retokenized(const Options& options, const Load& load) {
  int64_t tokens = 0;
  for (const LoadResult& result : load.results) {
    if (!result.success || result.text.empty()) continue;
    auto ids = tokenize(options, result.text);
    if (!ids.ok()) return ids.error();
    tokens += static_cast<int64_t>(ids->size());
  }
  return tokens;
}

// The server's own figures, since its start; 0: it drafts nothing, or does not say.
struct Acceptance {
  double length = 0, rate = 0;
};
Acceptance acceptance(const Options& options) {
  const auto answer = fetch(options.endpoint, "GET", "/server_info");
  if (!answer.ok()) return {};
  const auto json = parse_json(*answer, "/server_info");
  if (!json.ok() || !json->is_object()) return {};
  const Json states = json->value("internal_states", Json::array());
  if (states.empty()) return {};
  return {
      states[0].value("avg_spec_accept_length", 0.0), states[0].value("avg_spec_accept_rate", 0.0)};
}

Result<void> append_line(const std::string& path, const Json& report) {
  if (path.empty()) return {};
  std::ofstream file(path, std::ios::app);
  file << report.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  file.flush();
  if (!file) return error("cannot write --output-file {}", path);
  return {};
}

Result<int> bench(Options options) {
  if (auto url = read_base_url(options); !url.ok()) return url.error();
  if (auto found = find_model(options); !found.ok()) return found.error();
  auto prompts = make_dataset(options.dataset, [&](const std::string& text) {
    return tokenize(options, text);
  });
  if (!prompts.ok()) return prompts.error();
  const EventReader reader = is_native(options) ? read_generate_event : read_completion_event;
  if (auto warm = warm_up(options, prompts->front(), reader); !warm.ok()) return warm.error();
  if (options.flush_cache) {
    auto flushed = fetch(options.endpoint, "POST", "/flush_cache");
    if (!flushed.ok()) return flushed.error();
  }
  std::vector<LoadRequest> requests;
  for (const BenchPrompt& prompt : *prompts) requests.push_back(make_request(options, prompt));
  const Load load = run_load(options.endpoint, requests, reader, options.load);
  auto tokens = retokenized(options, load);
  if (!tokens.ok()) return tokens.error();
  const Acceptance accepted = acceptance(options);
  const BenchSummary summary{
      options.backend,
      options.dataset.name,
      options.load.request_rate,
      options.load.max_concurrency,
      *tokens,
      accepted.length,
      accepted.rate};
  const Json report = report_json(summary, *prompts, load, options.output_details);
  std::fputs(report_text(report).c_str(), stdout);
  const int failed = report.at("failed").get<int>();
  const auto bad = std::find_if(load.results.begin(), load.results.end(), [](const LoadResult& r) {
    return !r.success;
  });
  if (failed > 0)
    std::fprintf(stderr, "%d requests failed, the first: %s\n", failed, bad->error.c_str());
  if (auto written = append_line(options.output_file, report); !written.ok())
    return written.error();
  return failed > 0 ? 1 : 0;
}

void add_dataset_options(CLI::App& app, DatasetOptions& dataset) {
  app.add_option("--dataset-name", dataset.name, "What is asked")
      ->check(CLI::IsMember({"sharegpt", "random", "random-ids", "generated-shared-prefix"}))
      ->capture_default_str();
  app.add_option("--dataset-path", dataset.path, "ShareGPT file");
  app.add_option("--num-prompts", dataset.num_prompts, "Requests")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option(
         "--sharegpt-output-len",
         dataset.sharegpt_output_len,
         "Tokens to generate, 0: as the dataset's answer"
  )
      ->check(CLI::NonNegativeNumber);
  app.add_option(
         "--sharegpt-context-len",
         dataset.sharegpt_context_len,
         "Longest prompt and answer together"
  )
      ->capture_default_str();
  app.add_option("--random-input-len", dataset.random_input_len, "Tokens of a prompt")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--random-output-len", dataset.random_output_len, "Tokens to generate")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option(
         "--random-range-ratio",
         dataset.random_range_ratio,
         "Lengths are drawn from [ratio * len, len]"
  )
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--gsp-num-groups", dataset.gsp_num_groups, "Shared system prompts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--gsp-prompts-per-group", dataset.gsp_prompts_per_group, "Prompts of each")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option(
         "--gsp-system-prompt-len", dataset.gsp_system_prompt_len, "Tokens of a system prompt"
  )
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--gsp-question-len", dataset.gsp_question_len, "Tokens of a question")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--gsp-output-len", dataset.gsp_output_len, "Tokens to generate")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

}  // namespace

void add_bench_serving(CLI::App& bench_app, int& status) {
  auto options = std::make_shared<Options>();
  CLI::App& app = *bench_app.add_subcommand(
      "serving", "Load a server over HTTP and print throughput and latencies"
  );
  app.add_option("--backend", options->backend, "The server's kind")
      ->check(CLI::IsMember({"fathom", "sglang", "sglang-oai", "vllm"}))
      ->capture_default_str();
  app.add_option("--base-url", options->base_url, "http://host:port, instead of --host and --port");
  app.add_option("--host", options->endpoint.host, "Where the server listens")
      ->capture_default_str();
  app.add_option("--port", options->endpoint.port, "Its port")->capture_default_str();
  app.add_option("--api-key", options->endpoint.api_key, "Sent as a bearer token");
  app.add_option("--model", options->model, "Default: the first that the server lists");
  add_dataset_options(app, options->dataset);
  app.add_option(
         "--request-rate",
         options->load.request_rate,
         "Requests a second, as a Poisson process; inf: all at once"
  )
      ->check(CLI::PositiveNumber)
      ->default_str("inf");
  app.add_option(
         "--max-concurrency", options->load.max_concurrency, "Requests at once, 0: unbounded"
  )
      ->check(CLI::NonNegativeNumber);
  app.add_option("--seed", options->dataset.seed, "Of prompts and arrivals")->capture_default_str();
  app.add_option("--warmup-requests", options->warmup_requests, "Before the clock starts")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--flush-cache", options->flush_cache, "Empty the prefix cache first");
  app.add_flag(
      "--disable-ignore-eos", options->disable_ignore_eos, "Let answers end by themselves"
  );
  app.add_option("--output-file", options->output_file, "Append the result as one line of JSON");
  app.add_flag("--output-details", options->output_details, "With lists by request in it");
  app.callback([options, &status] {
    options->load.seed = options->dataset.seed;
    options->load.show_progress = ::isatty(STDERR_FILENO) == 1;
    auto done = bench(*options);
    if (!done.ok())
      std::fprintf(stderr, "fathom bench serving: %s\n", done.error().message.c_str());
    status = done.ok() ? *done : 1;
  });
}

}  // namespace fathom::apps
