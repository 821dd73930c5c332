// fathom eval: task files through the engine, several requests at a time; accuracy for each family
// with a 95 % interval. Or the perplexity of a text.
#include <atomic>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iostream>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>

#include "apps/commands.h"
#include "apps/eval_perplexity.h"
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
  int shots = 0;
  std::string shots_file;
  std::string text_file;
  Windows windows;
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
  // Tokens a row of a speculative step, 0 without speculation; share of drafts accepted.
  double accept_length = 0, accept_rate = 0;
  std::string failure;  // of the engine; ends the run
};

Result<plan::Request> request_of(
    const engine::Engine& engine, const EvalTask& task, int max_new_tokens
) {
  plan::Request request;
  request.sampling.temperature = 0.0f;
  request.sampling.max_new_tokens = max_new_tokens;
  request.sampling.skip_special_tokens = false;
  if (!task.prompt.empty()) {
    request.prompt = engine.tokenizer().encode(task.prompt);
    request.sampling.stop = {kShotStop};
    return request;
  }
  if (engine.chat_template() == nullptr) return error("the model has no chat template");
  Result<std::vector<plan::Token>> prompt = chat_prompt(engine, task.messages, task.tools);
  if (!prompt) return error("task {}: {}", task.id, prompt.error().message);
  request.prompt = std::move(*prompt);
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
    if (totals.accept_length > 0) {
      report["accept_length"] = totals.accept_length;
      report["accept_rate"] = totals.accept_rate;
    }
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
    std::cout << fmt::format(
        "accept length {:.3f}, accept rate {:.3f}\n", totals.accept_length, totals.accept_rate
    );
}

int fail(const std::string& message) {
  std::cerr << "fathom eval: " << message << '\n';
  return 1;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Examples from a file of their own, or from the head of the tasks, which are then not asked.
Result<void> take_shots(const Options& options, std::vector<EvalTask>& tasks) {
  const auto n = static_cast<size_t>(options.shots);
  std::vector<EvalTask> shots;
  if (!options.shots_file.empty()) {
    Result<std::vector<EvalTask>> read = read_tasks(options.shots_file);
    if (!read) return read.error();
    shots = std::move(*read);
    if (shots.size() < n)
      return error("{}: {} examples, not {}", options.shots_file, shots.size(), n);
    shots.resize(n);
  } else {
    if (tasks.size() <= n)
      return error("{} tasks: {} examples leave none to ask; --shots FILE", tasks.size(), n);
    const auto end = tasks.begin() + options.shots;
    shots.assign(tasks.begin(), end);
    tasks.erase(tasks.begin(), end);
  }
  return add_shots(tasks, shots);
}

Result<std::vector<EvalTask>> tasks_of(const Options& options) {
  std::vector<EvalTask> tasks;
  for (const std::string& path : options.files) {
    Result<std::vector<EvalTask>> read = read_tasks(path);
    if (!read) return read.error();
    if (options.shots > 0) {
      const Result<void> shown = take_shots(options, *read);
      if (!shown) return error("{}: --num-shots: {}", path, shown.error().message);
    }
    if (options.limit > 0 && read->size() > static_cast<size_t>(options.limit))
      read->resize(static_cast<size_t>(options.limit));
    tasks.insert(tasks.end(), read->begin(), read->end());
  }
  return tasks;
}

void print(const Options& options, const Perplexity& p, size_t bytes, double seconds) {
  const double rate = static_cast<double>(p.tokens) / seconds;
  const double bits = p.nll / std::log(2.0) / static_cast<double>(bytes);
  if (options.json) {
    const Json report = {
        {"nll", p.mean_nll()},
        {"nll_sum", p.nll},
        {"perplexity", p.value()},
        {"tokens", p.tokens},
        {"bits_per_byte", bits},
        {"windows", p.windows},
        {"window", options.windows.size},
        {"stride", options.windows.stride},
        {"seconds", seconds},
        {"tokens_per_second", rate},
    };
    std::cout << report.dump() << '\n';
    return;
  }
  std::cout << fmt::format(
      "nll {:.5f} a token, perplexity {:.4f}, {:.4f} bits a byte\n"
      "{} tokens in {} windows of {}, stride {}; {:.1f} s: {:.1f} tokens/s\n",
      p.mean_nll(),
      p.value(),
      bits,
      p.tokens,
      p.windows,
      options.windows.size,
      options.windows.stride,
      seconds,
      rate
  );
}

int eval_text(Options options) {
  std::ifstream file(options.text_file, std::ios::binary);
  std::stringstream text;
  if (!file || !(text << file.rdbuf()))
    return fail(fmt::format("{}: cannot be read, or empty", options.text_file));
  Result<std::unique_ptr<engine::Engine>> engine = open_engine(options.config);
  if (!engine) return fail(engine.error().message);
  // A request draws a token behind its prompt.
  const int most = (*engine)->context_length() - 1;
  if (options.windows.size == 0) options.windows.size = std::min(1024, most);
  if (options.windows.stride == 0) options.windows.stride = options.windows.size / 2;
  const std::vector<plan::Token> tokens =
      (*engine)->tokenizer().encode(text.view(), {.parse_special_tokens = false});
  const auto start = std::chrono::steady_clock::now();
  const Result<Perplexity> found = perplexity(
      **engine,
      tokens,
      options.windows,
      options.concurrency,
      [&](const Perplexity& sum) {
        if (options.json || sum.tokens == 0) return;
        std::cerr << fmt::format("\r{}/{} ({:.4f})", sum.tokens, tokens.size() - 1, sum.value());
      }
  );
  if (!options.json) std::cerr << '\n';
  if (!found) return fail(fmt::format("{}: {}", options.text_file, found.error().message));
  print(options, *found, text.view().size(), seconds_since(start));
  return 0;
}

int eval_tasks(const Options& options) {
  Result<std::vector<EvalTask>> tasks = tasks_of(options);
  if (!tasks) return fail(tasks.error().message);
  Result<std::unique_ptr<engine::Engine>> engine = open_engine(options.config);
  if (!engine) return fail(engine.error().message);
  Totals totals;
  const auto start = std::chrono::steady_clock::now();
  run_all(**engine, *tasks, options, totals);
  if (!totals.failure.empty()) return fail(totals.failure);
  const engine::Stats stats = (*engine)->stats();
  totals.accept_length = stats.accept_length;
  totals.accept_rate = stats.accept_rate;
  print(totals, seconds_since(start), options.json);
  return 0;
}

int eval(const Options& options) {
  if (options.files.empty() == options.text_file.empty())
    return fail("give --tasks FILE for accuracy, or --perplexity FILE for a text's");
  return options.files.empty() ? eval_text(options) : eval_tasks(options);
}

}  // namespace

Command eval_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("eval", "measure accuracy on task files, or the perplexity of a text");
  command->add_option("--tasks", options->files, "JSON Lines files of tasks, or GSM8K's");
  command->add_option("--num-shots", options->shots, "worked examples before each GSM8K question")
      ->check(CLI::NonNegativeNumber);
  command->add_option(
      "--shots", options->shots_file, "GSM8K file of the examples (default: each file's first)"
  );
  command->add_option("--perplexity", options->text_file, "a text: how well it is predicted");
  command->add_option("--window", options->windows.size, "tokens read at once (default: 1024)");
  command->add_option(
      "--stride", options->windows.stride, "tokens from window to window (default: half of one)"
  );
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
