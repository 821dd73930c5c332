// fathom eval: task files through the engine, several requests at a time; accuracy for each family
// with a 95 % interval.
#include <atomic>
#include <chrono>
#include <iostream>
#include <map>
#include <mutex>
#include <thread>

#include "apps/commands.h"
#include "apps/eval_task.h"
#include "apps/options.h"
#include "apps/session.h"
#include "fathom/text/chat_template.h"
#include "fathom/text/tokenizer.h"

namespace fathom::apps {
namespace {

struct Options {
  engine::Config config;
  std::vector<std::string> files;
  int concurrency = 8;
  int limit = 0;
  int max_new_tokens = 256;
  bool json = false;
  bool failures = false;
};

struct Score {
  int right = 0, n = 0;
  void add(bool is_right) {
    right += is_right ? 1 : 0;
    ++n;
  }
  Json json() const {
    const Interval interval = interval_95(right, n);
    return {
        {"accuracy", n == 0 ? 0.0 : static_cast<double>(right) / n},
        {"interval", {interval.low, interval.high}},
        {"right", right},
        {"n", n},
    };
  }
};

struct Totals {
  std::mutex mutex;
  std::map<std::string, Score> families;
  Score all;
  int64_t output_tokens = 0;
  double accept_length = 0;  // tokens a row of a speculative step; 0 without speculation
  std::string failure;       // of the engine; ends the run
};

Result<plan::Request> request_of(
    const engine::Engine& engine, const EvalTask& task, int max_new_tokens
) {
  if (engine.chat_template() == nullptr) return error("the model has no chat template");
  text::ChatInput input;
  input.messages = task.messages;
  input.tools = task.tools;
  const Result<std::string> text = engine.chat_template()->render(input);
  if (!text) return error("task {}: {}", task.id, text.error().message);
  plan::Request request;
  request.prompt = engine.tokenizer().encode(*text, {.add_special_tokens = false});
  request.sampling.temperature = 0.0f;
  request.sampling.max_new_tokens = max_new_tokens;
  request.sampling.skip_special_tokens = false;
  return request;
}

void run_task(
    engine::Engine& engine, const EvalTask& task, const Options& options, Totals& totals
) {
  std::string reply;
  Result<plan::Request> request = request_of(engine, task, options.max_new_tokens);
  const Result<Timing> timing =
      request
          ? complete(engine, std::move(*request), [&](const std::string& text) { reply += text; })
          : Result<Timing>(request.error());
  const std::lock_guard lock(totals.mutex);
  if (!timing) {
    totals.failure = timing.error().message;
    return;
  }
  const bool right = is_right(task, reply);
  totals.families[task.family].add(right);
  totals.all.add(right);
  totals.output_tokens += timing->usage.completion_tokens;
  if (!right && options.failures)
    std::cerr << fmt::format("{}: wanted {}, got {}\n", task.id, task.answer, reply);
}

void run_all(
    engine::Engine& engine,
    const std::vector<EvalTask>& tasks,
    const Options& options,
    Totals& totals
) {
  std::atomic<size_t> next{0};
  std::vector<std::jthread> clients;
  clients.reserve(static_cast<size_t>(options.concurrency));
  for (int i = 0; i < options.concurrency; ++i) {
    clients.emplace_back([&] {
      for (size_t at = next++; at < tasks.size(); at = next++) {
        run_task(engine, tasks[at], options, totals);
        const std::lock_guard lock(totals.mutex);
        if (!totals.failure.empty()) return;
        if (!options.json)
          std::cerr << fmt::format(
              "\r{}/{} ({} right)", totals.all.n, tasks.size(), totals.all.right
          );
      }
    });
  }
  clients.clear();
  if (!options.json) std::cerr << '\n';
}

void print(const Totals& totals, double seconds, bool as_json) {
  const double rate = static_cast<double>(totals.output_tokens) / seconds;
  if (as_json) {
    Json report = totals.all.json();
    report["seconds"] = seconds;
    report["output_tokens"] = totals.output_tokens;
    report["output_tokens_per_second"] = rate;
    if (totals.accept_length > 0) report["accept_length"] = totals.accept_length;
    for (const auto& [name, score] : totals.families) report["families"][name] = score.json();
    std::cout << report.dump() << '\n';
    return;
  }
  const auto line = [](const std::string& name, const Score& score) {
    const Interval interval = interval_95(score.right, score.n);
    std::cout << fmt::format(
        "{:<12} {:>6.2f} %  [{:.2f}, {:.2f}]  {}/{}\n",
        name,
        100.0 * score.right / std::max(1, score.n),
        100 * interval.low,
        100 * interval.high,
        score.right,
        score.n
    );
  };
  for (const auto& [name, score] : totals.families) line(name, score);
  line("all", totals.all);
  std::cout << fmt::format(
      "{} output tokens in {:.1f} s: {:.1f} tokens/s\n", totals.output_tokens, seconds, rate
  );
  if (totals.accept_length > 0)
    std::cout << fmt::format("accept length {:.3f}\n", totals.accept_length);
}

int fail(const std::string& message) {
  std::cerr << "fathom eval: " << message << '\n';
  return 1;
}

int eval(const Options& options) {
  std::vector<EvalTask> tasks;
  for (const std::string& path : options.files) {
    Result<std::vector<EvalTask>> read = read_tasks(path);
    if (!read) return fail(read.error().message);
    if (options.limit > 0 && read->size() > static_cast<size_t>(options.limit))
      read->resize(static_cast<size_t>(options.limit));
    tasks.insert(tasks.end(), read->begin(), read->end());
  }
  Result<std::unique_ptr<engine::Engine>> engine = open_engine(options.config);
  if (!engine) return fail(engine.error().message);
  Totals totals;
  const auto start = std::chrono::steady_clock::now();
  run_all(**engine, tasks, options, totals);
  if (!totals.failure.empty()) return fail(totals.failure);
  totals.accept_length = (*engine)->stats().accept_length;
  print(
      totals,
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
      options.json
  );
  return 0;
}

}  // namespace

Command eval_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "measure accuracy on task files");
  command->add_option("--tasks", options->files, "JSON Lines files of tasks, or GSM8K's")
      ->required();
  command->add_option("--concurrency", options->concurrency, "requests at a time")
      ->check(CLI::Range(1, 1024));
  command->add_option("--limit", options->limit, "first tasks of each file; 0 = all")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--max-new-tokens", options->max_new_tokens, "most tokens of a reply");
  command->add_flag("--json", options->json, "print one JSON object");
  command->add_flag("--failures", options->failures, "print wrong replies");
  add_engine_options(*command, options->config);
  return {command, [options] { return eval(*options); }};
}

}  // namespace fathom::apps
