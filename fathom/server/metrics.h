// What the server measures, and the Prometheus text of it and of the engine's Stats: SGLang's
// series names under "sglang:" where we have the value, ours under "fathom:"
// (docs/user/metrics.md).
//
// Threads: any.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fathom/engine/engine.h"

namespace fathom::server {

class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds);  // upper bounds, ascending; +Inf is added

  void observe(double value, int64_t times = 1);
  // Appends the series' lines; `labels` is "name=\"value\",..." without braces.
  void write(std::string& out, std::string_view name, std::string_view labels) const;

 private:
  const std::vector<double> bounds_;
  mutable std::mutex mutex_;
  std::vector<int64_t> counts_;  // by bucket, not cumulative
  double sum_ = 0.0;
};

class Metrics {
 public:
  Metrics();

  Histogram time_to_first_token;  // s, from the request's arrival
  Histogram inter_token_latency;  // s
  Histogram latency_streamed;     // s, from arrival to the end
  Histogram latency_whole;        // s, same, of answers not streamed
  Histogram queue_time;           // s, from submission to admission
  Histogram prompt_tokens;
  Histogram generated_tokens;
  std::atomic<int64_t> connections{0};  // open now
  std::atomic<int64_t> connections_refused{0};
  std::atomic<int64_t> clients_gone{0};  // requests cancelled because their client left
  std::atomic<int64_t> outbox_overflows{
      0};  // requests cancelled because their client read too slowly

  void count_response(std::string_view route, int status);

  // `engine` may be null while it loads.
  std::string render(const engine::Engine* engine, std::string_view model_name) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, int64_t> responses_;
};

}  // namespace fathom::server
