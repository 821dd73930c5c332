// fathom bench one-batch: the runner alone, without scheduler or server: a batch of prompts, then
// decode steps. Keys of
// --result-filename are SGLang's.
#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <numeric>
#include <random>

#include "apps/bench.h"
#include "apps/expert_count.h"
#include "apps/options.h"
#include "apps/step_profile_report.h"
#include "fathom/base/json.h"
#include "fathom/engine/model_stack.h"

namespace fathom::apps {
namespace {

struct Options {
  engine::Config config;
  std::vector<int> batch_sizes = {1};
  std::vector<int> input_lengths = {512};
  std::vector<int> output_lengths = {32};
  std::string result_filename;
  std::string run_name = "default";
  int repeats = 1;
  bool profile = false;
  bool count_experts = false;
};

struct Shape {
  int batch = 1, input = 0, output = 0;
};

struct Measured {
  double prefill_seconds = 0;
  std::vector<double> decode_seconds;  // of each step
  std::vector<double> host_seconds;    // of each step: what giving it to the device takes
  std::vector<StepProfile> profiles;   // of each step, when asked for
  int64_t graph_nodes = 0;             // 0: no graph was replayed
  double median_decode() const { return median(decode_seconds); }
  double median_host() const { return median(host_seconds); }
  double mean_host() const {
    const double sum = std::accumulate(host_seconds.begin(), host_seconds.end(), 0.0);
    return host_seconds.empty() ? 0 : sum / static_cast<double>(host_seconds.size());
  }
  double most_host() const {
    return host_seconds.empty() ? 0 : *std::max_element(host_seconds.begin(), host_seconds.end());
  }
  static double median(std::vector<double> sorted) {
    std::nth_element(
        sorted.begin(), sorted.begin() + static_cast<long>(sorted.size() / 2), sorted.end()
    );
    return sorted.empty() ? 0 : sorted[sorted.size() / 2];
  }
};

// Drives a runner with batches of its own making; sequence b holds pages [1 + b * each, ...).
class Driver {
 public:
  Driver(engine::ModelStack& stack, Shape shape, uint64_t seed)
      : stack_(stack), shape_(shape), page_size_(stack.scheduler.page_size) {
    pages_each_ = (shape.input + shape.output + page_size_) / page_size_;
    auto request = std::make_shared<plan::Request>();
    request->sampling.temperature = 0.0f;
    request_ = request;
    std::mt19937_64 random(seed);
    std::uniform_int_distribution<plan::Token> token(
        0, static_cast<plan::Token>(stack.model_config().vocab - 1)
    );
    prompts_.resize(static_cast<size_t>(shape.batch));
    for (auto& prompt : prompts_) {
      for (int i = 0; i < shape.input; ++i) prompt.push_back(token(random));
    }
  }

  // `experts`: of the decode steps, where not null; then their times mean nothing.
  Measured measure(bool profiled = false, ExpertCount* experts = nullptr) {
    Measured m;
    m.prefill_seconds = timed([this] { prefill(); });
    if (experts != nullptr) experts->enable(true);
    const int64_t replays = stack_.runner->counters().graph_replays;
    decode(m, profiled);
    const runtime::RunnerCounters counters = stack_.runner->counters();
    if (counters.graph_replays > replays) m.graph_nodes = counters.graph_nodes;
    return m;
  }

 private:
  template <class F>
  static double timed(const F& f) {
    const auto start = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  // As the engine does: a step is started before the one before it is finished, where the runner
  // takes steps ahead. A step's time is from finish to finish.
  void decode(Measured& m, bool profiled) {
    runtime::Runner& runner = *stack_.runner;
    const int steps = shape_.output - 1, ahead = runner.ahead();
    auto last = std::chrono::steady_clock::now();
    for (int started = 0, finished = 0; finished < steps;) {
      if (started < steps && started - finished <= ahead) {
        std::swap(batch_, spare_);
        start_batch();
        for (int b = 0; b < shape_.batch; ++b) add_row(b, shape_.input + started, 1, false);
        if (profiled) stack_.profile.start(*stack_.pool);
        m.host_seconds.push_back(timed([&] { runner.start(batch_); }));
        ++started;
        continue;
      }
      runner.finish(result_);
      ++finished;
      const auto now = std::chrono::steady_clock::now();
      m.decode_seconds.push_back(std::chrono::duration<double>(now - last).count());
      last = now;
      if (!profiled) continue;
      stack_.profile.stop();
      m.profiles.push_back(stack_.profile);
    }
  }

  // The prompts one after another, as many tokens a step as the scheduler would plan.
  void prefill() {
    start_batch();
    int left = stack_.scheduler.step_tokens;
    for (int b = 0; b < shape_.batch; ++b) {
      for (int start = 0; start < shape_.input;) {
        const int count = std::min(left, shape_.input - start);
        add_row(b, start, count, true);
        start += count;
        left -= count;
        if (left > 0) continue;
        stack_.runner->run(batch_, result_);
        start_batch();
        left = stack_.scheduler.step_tokens;
      }
    }
    if (!batch_.rows.empty()) stack_.runner->run(batch_, result_);
  }

  void start_batch() {
    batch_.clear();
    batch_.id = ++step_;
    batch_.page_begin.push_back(0);
  }

  void add_row(int b, int start, int count, bool chunk) {
    if (chunk && start == 0) {
      batch_.resets.push_back({.slot = b, .prompt = shape_.input, .request = request_});
    }
    batch_.rows.push_back({
        .sequence = b + 1,
        .slot = b,
        .start = start,
        .count = count,
        .chunk = chunk,
        .from_device = !chunk,
        .emits = !chunk || start + count == shape_.input,
    });
    for (int i = 0; i < count; ++i) {
      batch_.tokens.push_back(
          chunk ? prompts_[static_cast<size_t>(b)][static_cast<size_t>(start + i)] : 0
      );
    }
    for (int p = 0; p < pages_each_; ++p) batch_.pages.push_back(1 + b * pages_each_ + p);
    batch_.page_begin.push_back(static_cast<int32_t>(batch_.pages.size()));
  }

  engine::ModelStack& stack_;
  Shape shape_;
  int page_size_;
  int pages_each_ = 0;
  std::shared_ptr<const plan::Request> request_;
  std::vector<std::vector<plan::Token>> prompts_;
  plan::Batch batch_, spare_;
  plan::StepResult result_;
  plan::StepId step_ = 0;
};

std::string device_side(const Measured& m) {
  if (m.graph_nodes == 0) return "";
  return fmt::format(
      "   host {:.0f} us/step (mean {:.0f}, most {:.0f}), {} graph nodes",
      m.median_host() * 1e6,
      m.mean_host() * 1e6,
      m.most_host() * 1e6,
      m.graph_nodes
  );
}

void report(const Options& options, Shape shape, const Measured& m, std::ofstream& file) {
  const double prefill = shape.batch * shape.input / m.prefill_seconds;
  const double step = m.median_decode();
  const double decode = step > 0 ? shape.batch / step : 0;
  double total = m.prefill_seconds;
  for (const double s : m.decode_seconds) total += s;
  const double overall = shape.batch * (shape.input + shape.output) / total;
  std::cout << fmt::format(
                   "batch {:>3}  in {:>5}  out {:>4}   prefill {:>9.1f} tok/s   decode {:>8.3f} "
                   "ms/step  {:>8.1f} tok/s{}\n",
                   shape.batch,
                   shape.input,
                   shape.output,
                   prefill,
                   step * 1e3,
                   decode,
                   device_side(m)
               )
            << std::flush;
  if (!file.is_open()) return;
  file << Json{
              {"run_name", options.run_name},
              {"batch_size", shape.batch},
              {"input_len", shape.input},
              {"output_len", shape.output},
              {"prefill_latency", m.prefill_seconds},
              {"prefill_throughput", prefill},
              {"median_decode_latency", step},
              {"median_decode_throughput", decode},
              {"median_host_us", m.median_host() * 1e6},
              {"mean_host_us", m.mean_host() * 1e6},
              {"most_host_us", m.most_host() * 1e6},
              {"graph_nodes", m.graph_nodes},
              {"total_latency", total},
              {"overall_throughput", overall},
          }
       << '\n';
}

int one_batch(Options& options) {
  engine::Config& config = options.config;
  const int batch = *std::max_element(options.batch_sizes.begin(), options.batch_sizes.end());
  const int input = *std::max_element(options.input_lengths.begin(), options.input_lengths.end());
  const int output =
      *std::max_element(options.output_lengths.begin(), options.output_lengths.end());
  config.max_running_requests = batch;
  config.max_total_tokens = int64_t{batch} * (input + output + 2 * config.page_size);
  const Result<std::string> model = resolve_model(config.model_path);
  const Result<engine::Features> features = engine::Features::resolve(config.features);
  ExpertCount experts;
  std::function<void(std::string_view, const Tensor&)> probe;
  Result<std::unique_ptr<engine::ModelStack>> stack = Error{};
  if (!model) {
    stack = model.error();
  } else if (!features) {
    stack = features.error();
  } else {
    config.model_path = *model;
    stack =
        engine::open_model_stack(config, *features, {}, options.count_experts ? &probe : nullptr);
  }
  if (!stack) {
    std::cerr << "fathom bench one-batch: " << stack.error().message << '\n';
    return 1;
  }
  probe = experts.probe((*stack)->exec);
  std::ofstream file;
  if (!options.result_filename.empty()) file.open(options.result_filename, std::ios::app);
  for (const int b : options.batch_sizes) {
    for (const int in : options.input_lengths) {
      for (const int out : options.output_lengths) {
        const Shape shape{b, in, out};
        Driver(**stack, {b, std::min(in, 32), 2}, 1).measure();  // warm caches and threads
        if (options.count_experts) {
          experts = {};
          Driver(**stack, shape, config.random_seed).measure(false, &experts);
          std::cout << fmt::format("batch {:>3}  {}\n", b, experts.summary(out - 1));
          continue;
        }
        for (int i = 0; i < options.repeats; ++i) {
          const Measured m = Driver(**stack, shape, config.random_seed).measure(options.profile);
          report(options, shape, m, file);
          if (options.profile) print_step_profile(m.decode_seconds, m.profiles);
        }
      }
    }
  }
  return 0;
}

}  // namespace

Command bench_one_batch_command(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      bench.add_subcommand("one-batch", "prefill and decode of one batch, runner only");
  command
      ->add_option(
          "--batch-size,--batch", options->batch_sizes, "sequences; several to run several"
      )
      ->delimiter(',');
  command->add_option("--input-len", options->input_lengths, "prompt tokens of each")
      ->delimiter(',');
  command->add_option("--output-len", options->output_lengths, "tokens generated by each")
      ->delimiter(',');
  command->add_option(
      "--result-filename", options->result_filename, "append one JSON object a run"
  );
  command->add_option("--run-name", options->run_name, "name in the results");
  command->add_option("--repeats", options->repeats, "times to run each shape");
  command->add_flag("--profile", options->profile, "print where decode steps spend their time");
  command->add_flag(
      "--count-experts",
      options->count_experts,
      "print the distinct experts that decode steps read instead of times"
  );
  add_engine_options(*command, options->config);
  return {command, [options] { return one_batch(*options); }};
}

}  // namespace fathom::apps
