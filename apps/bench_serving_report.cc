#include "apps/bench_serving_report.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace fathom::apps {
namespace {

constexpr double kMs = 1000.0;

double percentile(const std::vector<double>& sorted, double percent) {
  const double place = percent / 100.0 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

void put_spread(Json& out, const std::string& name, const std::vector<double>& seconds) {
  const Spread spread = spread_of(seconds);
  out["mean_" + name + "_ms"] = spread.mean * kMs;
  out["median_" + name + "_ms"] = spread.median * kMs;
  out["std_" + name + "_ms"] = spread.std * kMs;
  out["p95_" + name + "_ms"] = spread.p95 * kMs;
  out["p99_" + name + "_ms"] = spread.p99 * kMs;
  out["max_" + name + "_ms"] = spread.max * kMs;
}

// Most events of a kind in one second of the run: a token each, or what the request's last event
// brought beyond.
double peak_tokens_per_second(const Load& load) {
  std::vector<double> seconds(static_cast<size_t>(load.duration) + 2, 0.0);
  for (const LoadResult& result : load.results) {
    if (!result.success || result.output_tokens == 0) continue;
    const auto events = static_cast<double>(result.itls.size() + 1);
    const double each = static_cast<double>(result.output_tokens) / events;
    double time = result.start + result.ttft;
    const auto put = [&] {
      seconds[std::min(static_cast<size_t>(time), seconds.size() - 1)] += each;
    };
    put();
    for (const double gap : result.itls) {
      time += gap;
      put();
    }
  }
  return *std::max_element(seconds.begin(), seconds.end());
}

int peak_concurrency(const Load& load) {
  std::vector<std::pair<double, int>> changes;
  for (const LoadResult& result : load.results) {
    changes.emplace_back(result.start, 1);
    changes.emplace_back(result.start + result.latency, -1);
  }
  std::sort(changes.begin(), changes.end());
  int running = 0, most = 0;
  for (const auto& [time, change] : changes) most = std::max(most, running += change);
  return most;
}

// Per-request lists that --output-details stores.
void put_details(Json& out, const std::vector<BenchPrompt>& prompts, const Load& load) {
  Json input = Json::array(), output = Json::array(), ttfts = Json::array(), itls = Json::array();
  Json texts = Json::array(), errors = Json::array();
  for (size_t i = 0; i < load.results.size(); ++i) {
    const LoadResult& result = load.results[i];
    input.push_back(prompts[i].input_tokens);
    output.push_back(result.output_tokens);
    ttfts.push_back(result.ttft);
    itls.push_back(result.itls);
    texts.push_back(result.text);
    errors.push_back(result.error);
  }
  out["input_lens"] = std::move(input);
  out["output_lens"] = std::move(output);
  out["ttfts"] = std::move(ttfts);
  out["itls"] = std::move(itls);
  out["generated_texts"] = std::move(texts);
  out["errors"] = std::move(errors);
}

class Block {
 public:
  void rule(std::string_view title, char fill) {
    constexpr size_t kWidth = 50;
    const size_t left = (kWidth - title.size()) / 2;
    out_ += std::string(left, fill) + std::string(title) +
            std::string(kWidth - title.size() - left, fill) + '\n';
  }
  template <class T>
  void line(std::string_view name, const T& value) {
    if constexpr (std::is_floating_point_v<T>) {
      out_ += fmt::format("{:<40} {:<10.2f}\n", name, value);
    } else {
      out_ += fmt::format("{:<40} {:<10}\n", name, value);
    }
  }
  void spread(const Json& report, std::string_view label, const std::string& key) {
    for (const auto& [statistic, word] :
         {std::pair("mean", "Mean"),
          {"median", "Median"},
          {"std", "Std"},
          {"p95", "P95"},
          {"p99", "P99"},
          {"max", "Max"}}) {
      line(
          fmt::format("{} {} (ms):", word, label),
          report.at(fmt::format("{}_{}_ms", statistic, key)).get<double>()
      );
    }
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

}  // namespace

Spread spread_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto count = static_cast<double>(values.size());
  Spread spread;
  for (const double value : values) spread.mean += value / count;
  double squares = 0;
  for (const double value : values) squares += (value - spread.mean) * (value - spread.mean);
  spread.std = std::sqrt(squares / count);
  spread.median = percentile(values, 50);
  spread.p95 = percentile(values, 95);
  spread.p99 = percentile(values, 99);
  spread.max = values.back();
  return spread;
}

Json report_json(
    const BenchSummary& summary,
    const std::vector<BenchPrompt>& prompts,
    const Load& load,
    bool details
) {
  int64_t completed = 0, input = 0, output = 0;
  double latencies = 0;
  std::vector<double> e2e, ttft, tpot, itl;
  for (size_t i = 0; i < load.results.size(); ++i) {
    const LoadResult& result = load.results[i];
    if (!result.success) continue;
    ++completed;
    input += prompts[i].input_tokens;
    output += result.output_tokens;
    latencies += result.latency;
    e2e.push_back(result.latency);
    ttft.push_back(result.ttft);
    if (result.output_tokens > 1)
      tpot.push_back((result.latency - result.ttft) / (result.output_tokens - 1));
    itl.insert(itl.end(), result.itls.begin(), result.itls.end());
  }
  const double seconds = std::max(load.duration, 1e-9);
  Json out = {
      {"backend", summary.backend},
      {"dataset_name", summary.dataset},
      {"request_rate", std::isinf(summary.request_rate) ? Json("inf") : Json(summary.request_rate)},
      {"max_concurrency",
       summary.max_concurrency > 0 ? Json(summary.max_concurrency) : Json(nullptr)},
      {"duration", load.duration},
      {"completed", completed},
      {"failed", static_cast<int64_t>(load.results.size()) - completed},
      {"total_input_tokens", input},
      {"total_output_tokens", output},
      {"total_output_tokens_retokenized", summary.retokenized_tokens},
      {"request_throughput", static_cast<double>(completed) / seconds},
      {"input_throughput", static_cast<double>(input) / seconds},
      {"output_throughput", static_cast<double>(output) / seconds},
      {"total_throughput", static_cast<double>(input + output) / seconds},
      {"max_output_tokens_per_s", peak_tokens_per_second(load)},
      {"max_concurrent_requests", peak_concurrency(load)},
      {"concurrency", latencies / seconds},
      {"accept_length", summary.accept_length > 0 ? Json(summary.accept_length) : Json(nullptr)},
      {"accept_rate", summary.accept_length > 0 ? Json(summary.accept_rate) : Json(nullptr)}};
  put_spread(out, "e2e_latency", e2e);
  put_spread(out, "ttft", ttft);
  put_spread(out, "tpot", tpot);
  put_spread(out, "itl", itl);
  if (details) put_details(out, prompts, load);
  return out;
}

std::string report_text(const Json& report) {
  const auto number = [&](const char* key) { return report.at(key).get<double>(); };
  const auto count = [&](const char* key) { return report.at(key).get<int64_t>(); };
  const auto text = [&](const char* key) {
    const Json& value = report.at(key);
    return value.is_null()     ? "not set"
           : value.is_string() ? value.get<std::string>()
                               : value.dump();
  };
  Block block;
  block.rule(" Serving Benchmark Result ", '=');
  block.line("Backend:", text("backend"));
  block.line("Traffic request rate:", text("request_rate"));
  block.line("Max request concurrency:", text("max_concurrency"));
  block.line("Successful requests:", count("completed"));
  block.line("Failed requests:", count("failed"));
  block.line("Benchmark duration (s):", number("duration"));
  block.line("Total input tokens:", count("total_input_tokens"));
  block.line("Total generated tokens:", count("total_output_tokens"));
  block.line("Total generated tokens (retokenized):", count("total_output_tokens_retokenized"));
  block.line("Request throughput (req/s):", number("request_throughput"));
  block.line("Input token throughput (tok/s):", number("input_throughput"));
  block.line("Output token throughput (tok/s):", number("output_throughput"));
  block.line("Peak output token throughput (tok/s):", number("max_output_tokens_per_s"));
  block.line("Peak concurrent requests:", count("max_concurrent_requests"));
  block.line("Total token throughput (tok/s):", number("total_throughput"));
  block.line("Concurrency:", number("concurrency"));
  if (!report.at("accept_length").is_null()) {
    block.line("Accept length:", number("accept_length"));
    block.line("Accept rate:", number("accept_rate"));
  }
  block.rule("End-to-End Latency", '-');
  block.spread(report, "E2E Latency", "e2e_latency");
  block.rule("Time to First Token", '-');
  block.spread(report, "TTFT", "ttft");
  block.rule("Time per Output Token (excl. 1st token)", '-');
  block.spread(report, "TPOT", "tpot");
  block.rule("Inter-Token Latency", '-');
  block.spread(report, "ITL", "itl");
  block.rule("", '=');
  return block.take();
}

}  // namespace fathom::apps
