// fathom bench feature NAME: one workload with the feature off and on, interleaved, both printed.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iostream>
#include <mutex>
#include <random>

#include "apps/bench.h"
#include "apps/options.h"
#include "apps/session.h"
#include "fathom/engine/features.h"

namespace fathom::apps {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  engine::Config config;
  std::string feature;
  int repeats = 3;
  int requests = 12;
  int concurrency = 6;
  int shared_prefix = 256;
  int own_prompt = 64;
  int output = 24;
};

struct Sample {
  std::vector<double> first_token_ms, gap_ms;
  int64_t tokens = 0;
  double seconds = 0;
};

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(
      values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size()))
  )];
}

// Runs the workload once: requests that share a prefix, `concurrency` at a time.
class Workload {
 public:
  Workload(const Options& options, uint64_t seed) : options_(options), random_(seed) {}

  Sample run(engine::Engine& engine) {
    const plan::Token most = static_cast<plan::Token>(std::min(engine.context_length(), 1000));
    std::vector<plan::Token> prefix = draw(options_.shared_prefix, most);
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < options_.requests; ++i) {
      wait_below(options_.concurrency);
      submit(engine, prefix, most);
    }
    wait_below(1);
    sample_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return std::move(sample_);
  }

 private:
  std::vector<plan::Token> draw(int n, plan::Token most) {
    std::uniform_int_distribution<plan::Token> token(3, most);
    std::vector<plan::Token> tokens(static_cast<size_t>(n));
    for (plan::Token& t : tokens) t = token(random_);
    return tokens;
  }

  void wait_below(int limit) {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return running_ < limit; });
  }

  void submit(engine::Engine& engine, const std::vector<plan::Token>& prefix, plan::Token most) {
    plan::Request request;
    request.id = fmt::format("bench-{}", random_());
    request.prompt = prefix;
    const std::vector<plan::Token> own = draw(options_.own_prompt, most);
    request.prompt.insert(request.prompt.end(), own.begin(), own.end());
    request.sampling.temperature = 0.0f;
    request.sampling.ignore_eos = true;
    request.sampling.max_new_tokens = options_.output;
    request.sink = [this, last = Clock::now(), first = true](plan::OutputChunk&& chunk) mutable {
      const Clock::time_point now = Clock::now();
      const double ms = std::chrono::duration<double, std::milli>(now - last).count();
      last = now;
      const std::lock_guard lock(mutex_);
      if (!chunk.tokens.empty()) (first ? sample_.first_token_ms : sample_.gap_ms).push_back(ms);
      if (!chunk.tokens.empty()) first = false;
      sample_.tokens += static_cast<int64_t>(chunk.tokens.size());
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

  const Options& options_;
  std::mt19937_64 random_;
  std::mutex mutex_;
  std::condition_variable done_;
  int running_ = 0;
  Sample sample_;
};

void print(const char* name, const std::vector<Sample>& samples, int64_t hits) {
  std::vector<double> first, gaps, rates;
  for (const Sample& s : samples) {
    first.insert(first.end(), s.first_token_ms.begin(), s.first_token_ms.end());
    gaps.insert(gaps.end(), s.gap_ms.begin(), s.gap_ms.end());
    rates.push_back(static_cast<double>(s.tokens) / s.seconds);
  }
  std::cout << fmt::format(
      "  {:<4} {:>10.1f} tok/s   first token {:>8.1f} ms (p99 {:>8.1f})   gap {:>7.2f} ms (p99 "
      "{:>8.2f})   hits {}\n",
      name,
      percentile(rates, 0.5),
      percentile(first, 0.5),
      percentile(first, 0.99),
      percentile(gaps, 0.5),
      percentile(gaps, 0.99),
      hits
  );
}

int bench_feature(const Options& options) {
  std::array<std::unique_ptr<engine::Engine>, 2> engines;
  for (const bool on : {false, true}) {
    engine::Config config = options.config;
    config.features.push_back((on ? "+" : "-") + options.feature);
    Result<std::unique_ptr<engine::Engine>> engine = open_engine(std::move(config));
    if (!engine) {
      std::cerr << "fathom bench feature: " << engine.error().message << '\n';
      return 1;
    }
    engines[on ? 1 : 0] = std::move(*engine);
  }
  std::array<std::vector<Sample>, 2> samples;
  for (int i = 0; i < options.repeats; ++i) {
    for (const size_t on : {size_t{0}, size_t{1}}) {
      engines[on]->flush_cache();
      samples[on].push_back(Workload(options, static_cast<uint64_t>(i) + 1).run(*engines[on]));
    }
  }
  std::cout << fmt::format(
      "{}: {} requests, {} at a time, prompts {} shared + {} own, {} out, {} repeats\n",
      options.feature,
      options.requests,
      options.concurrency,
      options.shared_prefix,
      options.own_prompt,
      options.output,
      options.repeats
  );
  print("off", samples[0], engines[0]->stats().feature_hits.at(options.feature));
  print("on", samples[1], engines[1]->stats().feature_hits.at(options.feature));
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
