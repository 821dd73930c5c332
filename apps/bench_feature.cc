// fathom bench feature NAME: one workload with the feature off and on, interleaved, both printed
// with medians and quartiles over the repeats, and their ratio, which pairs neighbouring runs.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iostream>
#include <mutex>
#include <random>

#include "apps/bench.h"
#include "apps/eval_task.h"
#include "apps/options.h"
#include "apps/session.h"
#include "fathom/engine/features.h"

namespace fathom::apps {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  engine::Config config;
  std::string feature;
  std::string tasks;  // a file to take prompts from; else they are random
  int repeats = 7;
  int requests = 12;
  int concurrency = 6;
  int shared_prefix = 256;
  int own_prompt = 64;
  int output = 24;
};

// One run of the workload.
struct Sample {
  std::vector<double> first_token_ms, gap_ms;
  int64_t tokens = 0;
  double seconds = 0;
  // Of all requests, behind their first chunks.
  int64_t decoded = 0;
  double decode_seconds = 0;

  double rate() const { return static_cast<double>(tokens) / seconds; }
  double decode_rate() const {
    return decode_seconds > 0 ? static_cast<double>(decoded) / decode_seconds : 0;
  }
};

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(
      values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size()))
  )];
}

// "median [quartile, quartile]"
std::string spread(const std::vector<double>& values, int digits) {
  return fmt::format(
      "{:.{}f} [{:.{}f}, {:.{}f}]",
      percentile(values, 0.5),
      digits,
      percentile(values, 0.25),
      digits,
      percentile(values, 0.75),
      digits
  );
}

using Prompt = std::vector<plan::Token>;

// Runs the workload once, `concurrency` requests at a time: `prompts` in turn, or random ones that
// share a prefix.
class Workload {
 public:
  Workload(const Options& options, const std::vector<Prompt>& prompts, uint64_t seed)
      : options_(options), prompts_(prompts), random_(seed) {}

  Sample run(engine::Engine& engine) {
    const plan::Token most = static_cast<plan::Token>(std::min(engine.context_length(), 1000));
    const Prompt prefix = draw(options_.shared_prefix, most);
    const Clock::time_point start = Clock::now();
    for (size_t i = 0; i < static_cast<size_t>(options_.requests); ++i) {
      wait_below(options_.concurrency);
      if (!prompts_.empty()) {
        submit(engine, prompts_[i % prompts_.size()]);
        continue;
      }
      Prompt prompt = prefix;
      const Prompt own = draw(options_.own_prompt, most);
      prompt.insert(prompt.end(), own.begin(), own.end());
      submit(engine, std::move(prompt));
    }
    wait_below(1);
    sample_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return std::move(sample_);
  }

 private:
  Prompt draw(int n, plan::Token most) {
    std::uniform_int_distribution<plan::Token> token(3, most);
    Prompt tokens(static_cast<size_t>(n));
    for (plan::Token& t : tokens) t = token(random_);
    return tokens;
  }

  void wait_below(int limit) {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return running_ < limit; });
  }

  void submit(engine::Engine& engine, Prompt prompt) {
    plan::Request request;
    request.id = fmt::format("bench-{}", random_());
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0.0f;
    request.sampling.ignore_eos = prompts_.empty();
    request.sampling.max_new_tokens = options_.output;
    request.sink = [this, at = Clock::now(), chunks = 0](plan::OutputChunk&& chunk) mutable {
      const Clock::time_point now = Clock::now();
      const double seconds = std::chrono::duration<double>(now - at).count();
      const auto tokens = static_cast<int64_t>(chunk.tokens.size());
      at = now;
      const std::lock_guard lock(mutex_);
      if (tokens > 0) note(seconds, tokens, chunks++ == 0);
      if (!chunk.finish) return;
      --running_;
      done_.notify_all();
    };
    {
      const std::lock_guard lock(mutex_);
      ++running_;
    }
    const engine::Refusal refusal =
        engine.submit(std::make_shared<plan::Request>(std::move(request)));
    CHECK(!refusal.refused(), "the bench's own request was refused: {}", refusal.message);
  }

  void note(double seconds, int64_t tokens, bool first) {
    (first ? sample_.first_token_ms : sample_.gap_ms).push_back(1e3 * seconds);
    sample_.tokens += tokens;
    if (first) return;
    sample_.decoded += tokens;
    sample_.decode_seconds += seconds;
  }

  const Options& options_;
  const std::vector<Prompt>& prompts_;
  std::mt19937_64 random_;
  std::mutex mutex_;
  std::condition_variable done_;
  int running_ = 0;
  Sample sample_;
};

using Runs = std::vector<Sample>;

template <class F>
std::vector<double> each(const Runs& runs, const F& f) {
  std::vector<double> values;
  for (const Sample& run : runs) values.push_back(f(run));
  return values;
}

void print(const char* name, const Runs& runs, const engine::Stats& stats, int64_t hits) {
  std::vector<double> first, gaps;
  for (const Sample& run : runs) {
    first.insert(first.end(), run.first_token_ms.begin(), run.first_token_ms.end());
    gaps.insert(gaps.end(), run.gap_ms.begin(), run.gap_ms.end());
  }
  std::cout << fmt::format(
      "  {:<4} {:>26} tok/s   decode of one {:>26} tok/s   first token {:>7.1f} ms (p99 {:>7.1f})  "
      " gap {:>6.2f} ms (p99 {:>6.2f})   hits {}{}\n",
      name,
      spread(each(runs, [](const Sample& s) { return s.rate(); }), 1),
      spread(each(runs, [](const Sample& s) { return s.decode_rate(); }), 1),
      percentile(first, 0.5),
      percentile(first, 0.99),
      percentile(gaps, 0.5),
      percentile(gaps, 0.99),
      hits,
      stats.accept_length > 0 ? fmt::format("   accept length {:.2f}", stats.accept_length) : ""
  );
}

// on / off of neighbouring runs.
template <class F>
std::string ratio(const std::array<Runs, 2>& runs, const F& f) {
  std::vector<double> off = each(runs[0], f), on = each(runs[1], f);
  for (size_t i = 0; i < on.size(); ++i) on[i] = off[i] > 0 ? on[i] / off[i] : 0;
  return spread(on, 3);
}

// w8a8 has work where matrices have a scale per channel: int8 ones are made on load, of what FP8
// codes stand for too, unless flags say otherwise.
void give_work(engine::Config& config, const std::string& feature) {
  if (feature != "w8a8" || !config.quantization.empty()) return;
  config.quantization = "w8a8_int8";
  config.features.insert(config.features.begin(), "-fp8_block_gemm");
}

// The side without speculation has no use for its flags.
void leave_out_speculation(engine::Config& config) {
  config.speculative_num_steps = 0;
  config.speculative_eagle_topk = 0;
  config.speculative_num_draft_tokens = 0;
}

using Engines = std::array<std::unique_ptr<engine::Engine>, 2>;  // off, on

Result<Engines> open_both(const Options& options) {
  Engines engines;
  for (const bool on : {false, true}) {
    engine::Config config = options.config;
    give_work(config, options.feature);
    config.features.push_back((on ? "+" : "-") + options.feature);
    if (options.feature == "nextn" && !on) leave_out_speculation(config);
    Result<std::unique_ptr<engine::Engine>> engine = open_engine(std::move(config));
    if (!engine) return engine.error();
    engines[on ? 1 : 0] = std::move(*engine);
  }
  return engines;
}

Result<std::vector<Prompt>> prompts_of(const Options& options, const engine::Engine& engine) {
  std::vector<Prompt> prompts;
  if (options.tasks.empty()) return prompts;
  const Result<std::vector<EvalTask>> tasks = read_tasks(options.tasks);
  if (!tasks) return tasks.error();
  for (const EvalTask& task : *tasks) {
    Result<Prompt> prompt = chat_prompt(engine, task.messages, task.tools);
    if (!prompt) return prompt.error();
    prompts.push_back(std::move(*prompt));
  }
  return prompts;
}

// " (2, 1, 3)": steps, top-k and tokens of a row, where the engine speculates.
std::string speculation_of(const engine::Engine& engine) {
  const Json info = engine.info();
  const Json& s = info.at("speculation");
  if (s.is_null()) return "";
  const auto number = [&](const char* key) { return s.at(key).get<int>(); };
  return fmt::format(" ({}, {}, {})", number("steps"), number("topk"), number("tokens"));
}

int fail(const std::string& message) {
  std::cerr << "fathom bench feature: " << message << '\n';
  return 1;
}

int bench_feature(const Options& options) {
  Result<Engines> engines = open_both(options);
  if (!engines) return fail(engines.error().message);
  const Result<std::vector<Prompt>> prompts = prompts_of(options, *engines->front());
  if (!prompts) return fail(prompts.error().message);
  std::array<Runs, 2> runs;
  for (int i = 0; i < options.repeats; ++i) {
    for (int turn = 0; turn < 2; ++turn) {
      const auto on = static_cast<size_t>((i + turn) % 2);  // neither is always first
      engine::Engine& engine = *(*engines)[on];
      engine.flush_cache();
      runs[on].push_back(Workload(options, *prompts, static_cast<uint64_t>(i) + 1).run(engine));
    }
  }
  std::cout << fmt::format(
      "{}{}: {} requests, {} at a time, prompts {}, {} out, {} repeats\n",
      options.feature,
      speculation_of(*engines->back()),
      options.requests,
      options.concurrency,
      prompts->empty()
          ? fmt::format("{} shared + {} own", options.shared_prefix, options.own_prompt)
          : options.tasks,
      options.output,
      options.repeats
  );
  for (const size_t on : {size_t{0}, size_t{1}}) {
    const engine::Stats stats = (*engines)[on]->stats();
    print(on == 1 ? "on" : "off", runs[on], stats, stats.feature_hits.at(options.feature));
  }
  std::cout << fmt::format(
      "  on / off: tok/s {}, decode {}\n",
      ratio(runs, [](const Sample& s) { return s.rate(); }),
      ratio(runs, [](const Sample& s) { return s.decode_rate(); })
  );
  return 0;
}

}  // namespace

Command bench_feature_command(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand("feature", "one feature off and on, interleaved");
  std::vector<std::string> names;
  for (const engine::FeatureRow& row : engine::kFeatures) names.emplace_back(row.name);
  command->add_option("name", options->feature, "the feature")
      ->required()
      ->check(CLI::IsMember(names));
  command->add_option("--repeats", options->repeats, "runs of each side");
  command->add_option(
      "--tasks", options->tasks, "JSON Lines file of tasks whose prompts are taken, in turn"
  );
  command->add_option("--requests", options->requests, "requests a run");
  command->add_option("--max-concurrency", options->concurrency, "requests at a time");
  command->add_option(
      "--shared-prefix-len", options->shared_prefix, "prompt tokens that all share"
  );
  command->add_option("--input-len", options->own_prompt, "further prompt tokens of each");
  command->add_option("--output-len", options->output, "tokens generated by each");
  add_engine_options(*command, options->config);
  return {command, [options] { return bench_feature(*options); }};
}

}  // namespace fathom::apps
