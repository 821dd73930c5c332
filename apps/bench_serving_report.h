// The result of a load as SGLang's bench_serving prints and stores it: same lines, same keys.
#pragma once

#include <string>
#include <vector>

#include "apps/bench_serving_client.h"
#include "apps/bench_serving_dataset.h"
#include "fathom/base/json.h"

namespace fathom::apps {

struct BenchSummary {
  std::string backend;
  std::string dataset;
  double request_rate = 0.0;
  int max_concurrency = 0;
  int64_t retokenized_tokens = 0;
  double accept_length = 0.0;  // tokens of a row that verifies drafts; 0: no speculation
  double accept_rate = 0.0;    // share of the drafted tokens that were accepted
};

// Mean, median, std, p95, p99 and max of a series, in the unit given.
struct Spread {
  double mean = 0, median = 0, std = 0, p95 = 0, p99 = 0, max = 0;
};
Spread spread_of(std::vector<double> values);

// One JSON object; `details` adds the lists by request.
Json report_json(
    const BenchSummary& summary,
    const std::vector<BenchPrompt>& prompts,
    const Load& load,
    bool details
);

// The printed block of such an object.
std::string report_text(const Json& report);

}  // namespace fathom::apps
