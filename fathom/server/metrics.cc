#include "fathom/server/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace fathom::server {
namespace {

std::vector<double> latency_bounds() {
  return {0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400};
}

std::vector<double> gap_bounds() {
  return {0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06,
          0.08,  0.1,   0.2,   0.4,   0.6,  0.8,   1,    2,     4,    6,     8};
}

std::vector<double> token_bounds() {
  return {1, 10, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
}

// Backslash, quote and line feed are escaped in a label's value.
std::string label_value(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

// Appends series in the exposition format.
class Writer {
 public:
  Writer(std::string& out, std::string labels) : out_(out), labels_(std::move(labels)) {}

  void head(std::string_view name, std::string_view type, std::string_view help) {
    fmt::format_to(std::back_inserter(out_), "# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
  }

  void sample(std::string_view name, double value, std::string_view more = "") {
    fmt::format_to(std::back_inserter(out_), "{}{{{}{}}} {}\n", name, labels_, more, value);
  }

  void gauge(std::string_view name, double value, std::string_view help) {
    head(name, "gauge", help);
    sample(name, value);
  }

  void counter(std::string_view name, double value, std::string_view help) {
    head(name, "counter", help);
    sample(name, value);
  }

  void histogram(std::string_view name, const Histogram& histogram, std::string_view help) {
    head(name, "histogram", help);
    histogram.write(out_, name, labels_);
  }

 private:
  std::string& out_;
  std::string labels_;
};

double ratio(double part, double whole) {
  return whole > 0 ? part / whole : 0.0;
}

void write_state(Writer& w, const engine::Stats& s) {
  const auto used = static_cast<double>(s.kv_tokens_used);
  const auto total = static_cast<double>(s.kv_tokens_total);
  w.gauge("sglang:num_running_reqs", s.running, "Requests in the running batch.");
  w.gauge("sglang:num_queue_reqs", s.waiting, "Requests that wait to be admitted.");
  w.gauge("sglang:gen_throughput", s.generation_tokens_per_second, "Tokens generated per second.");
  w.gauge("sglang:token_usage", ratio(used, total), "Share of the KV cache in use.");
  w.gauge("sglang:num_used_tokens", used, "KV cache positions in use.");
  w.gauge("sglang:kv_used_tokens", used, "KV cache positions in use.");
  w.gauge(
      "sglang:kv_evictable_tokens",
      static_cast<double>(s.kv_tokens_evictable),
      "Cached positions that may be evicted."
  );
  w.gauge("sglang:kv_available_tokens", total - used, "KV cache positions free or evictable.");
  w.gauge(
      "sglang:cache_hit_rate",
      ratio(static_cast<double>(s.cached_tokens), static_cast<double>(s.prompt_tokens)),
      "Share of prompt tokens taken from the prefix cache."
  );
}

void write_totals(Writer& w, const engine::Stats& s) {
  const auto n = [](int64_t value) { return static_cast<double>(value); };
  w.counter("sglang:prompt_tokens_total", n(s.prompt_tokens), "Prompt tokens processed.");
  w.counter("sglang:generation_tokens_total", n(s.generated_tokens), "Tokens generated.");
  w.head("sglang:cached_tokens_total", "counter", "Prompt tokens taken from a cache.");
  w.sample("sglang:cached_tokens_total", n(s.cached_tokens), ",cache_source=\"device\"");
  w.counter("sglang:num_requests_total", n(s.requests), "Requests accepted.");
  w.counter("sglang:num_aborted_requests_total", n(s.aborted), "Requests aborted.");
  w.counter("sglang:num_retracted_requests_total", n(s.preemptions), "Preemptions.");
  w.counter(
      "fathom:failed_requests_total", n(s.failed), "Requests ended by an error of their own."
  );
  w.counter("fathom:steps_total", n(s.steps), "Steps run.");
  w.counter(
      "fathom:wasted_rows_total", n(s.wasted_rows), "Rows computed for sequences that had ended."
  );
  w.gauge(
      "fathom:step_host_microseconds", s.step_host_us, "Median host time of a step outside kernels."
  );
  w.gauge(
      "sglang:spec_accept_length", s.accept_length, "Tokens of a decode row that verifies drafts."
  );
  w.gauge("sglang:spec_accept_rate", s.accept_rate, "Share of drafted tokens accepted.");
  w.counter("fathom:draft_levels_total", n(s.draft_levels), "Levels of drafted tokens verified.");
  w.gauge("fathom:pages_free", n(s.pages_free), "KV pages free.");
  w.gauge("fathom:pages_tree", n(s.pages_tree), "KV pages held by the prefix cache.");
  w.head("fathom:feature_hits_total", "counter", "Times a named feature acted.");
  for (const auto& [feature, hits] : s.feature_hits) {
    w.sample(
        "fathom:feature_hits_total", n(hits), fmt::format(",feature=\"{}\"", label_value(feature))
    );
  }
}

void write_constants(Writer& w, const engine::Engine& engine, const engine::Stats& s) {
  w.gauge(
      "sglang:max_total_num_tokens", static_cast<double>(s.kv_tokens_total), "KV cache positions."
  );
  w.gauge("sglang:page_size", engine.config().page_size, "Positions of a KV page.");
  w.gauge("sglang:num_pages", static_cast<double>(s.pages_total), "KV pages.");
  w.gauge("sglang:context_len", engine.context_length(), "Longest sequence in tokens.");
}

}  // namespace

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

void Histogram::observe(double value, int64_t times) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  const std::lock_guard lock(mutex_);
  counts_[static_cast<size_t>(bucket)] += times;
  sum_ += value * static_cast<double>(times);
}

void Histogram::write(std::string& out, std::string_view name, std::string_view labels) const {
  const std::lock_guard lock(mutex_);
  auto to = std::back_inserter(out);
  int64_t total = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    total += counts_[i];
    const std::string bound = i < bounds_.size() ? fmt::format("{}", bounds_[i]) : "+Inf";
    fmt::format_to(to, "{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, bound, total);
  }
  fmt::format_to(to, "{0}_sum{{{1}}} {2}\n{0}_count{{{1}}} {3}\n", name, labels, sum_, total);
}

Metrics::Metrics()
    : time_to_first_token(latency_bounds()),
      inter_token_latency(gap_bounds()),
      latency_streamed(latency_bounds()),
      latency_whole(latency_bounds()),
      queue_time(latency_bounds()),
      prompt_tokens(token_bounds()),
      generated_tokens(token_bounds()) {}

void Metrics::count_response(std::string_view route, int status) {
  const std::lock_guard lock(mutex_);
  ++responses_[{std::string(route), status}];
}

std::string Metrics::render(const engine::Engine* engine, std::string_view model_name) const {
  std::string out;
  const std::string labels = fmt::format(
      "model_name=\"{}\",engine_type=\"unified\",tp_rank=\"0\",pp_rank=\"0\",dp_rank=\"0\"",
      label_value(model_name)
  );
  Writer w(out, labels);
  if (engine) {
    const engine::Stats stats = engine->stats();
    write_state(w, stats);
    write_totals(w, stats);
    write_constants(w, *engine, stats);
  }
  w.histogram("sglang:time_to_first_token_seconds", time_to_first_token, "Arrival to first token.");
  w.histogram("sglang:inter_token_latency_seconds", inter_token_latency, "Between two tokens.");
  w.histogram("sglang:queue_time_seconds", queue_time, "Submission to admission.");
  w.histogram("sglang:prompt_tokens_histogram", prompt_tokens, "Tokens of a prompt.");
  w.histogram(
      "sglang:generation_tokens_histogram", generated_tokens, "Tokens of a request's output."
  );
  w.head("sglang:e2e_request_latency_seconds", "histogram", "Arrival to end.");
  latency_streamed.write(
      out, "sglang:e2e_request_latency_seconds", labels + ",is_streaming=\"true\""
  );
  latency_whole.write(
      out, "sglang:e2e_request_latency_seconds", labels + ",is_streaming=\"false\""
  );
  w.gauge("fathom:http_connections", static_cast<double>(connections), "Open connections.");
  w.counter(
      "fathom:http_connections_refused_total",
      static_cast<double>(connections_refused),
      "Connections above the limit."
  );
  w.counter(
      "fathom:clients_gone_total",
      static_cast<double>(clients_gone),
      "Requests cancelled because their client left."
  );
  w.counter(
      "fathom:slow_clients_total",
      static_cast<double>(outbox_overflows),
      "Requests cancelled because their client read too slowly."
  );
  w.head("fathom:http_responses_total", "counter", "Responses by route and status.");
  const std::lock_guard lock(mutex_);
  for (const auto& [key, count] : responses_) {
    w.sample(
        "fathom:http_responses_total",
        static_cast<double>(count),
        fmt::format(",route=\"{}\",status=\"{}\"", label_value(key.first), key.second)
    );
  }
  return out;
}

}  // namespace fathom::server
