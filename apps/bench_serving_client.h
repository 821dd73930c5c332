// The load of `fathom bench serving`: many streamed HTTP requests, timed by the client that sends
// them. One thread drives all connections, so times need no lock and no request waits for another.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "fathom/base/json.h"
#include "fathom/base/result.h"

namespace fathom::apps {

struct Endpoint {
  std::string host = "127.0.0.1";
  std::string port = "30000";
  std::string api_key;  // "": none is sent
};

// One request of the load, ready to be sent.
struct LoadRequest {
  std::string path;
  std::string body;
};

// What came of it. Times in seconds; `start` since the load began.
struct LoadResult {
  bool success = false;
  std::string error;
  std::string text;
  int output_tokens = 0;
  double start = 0.0;
  double ttft = 0.0;
  double latency = 0.0;
  std::vector<double> itls;  // between two events with text
};

// Takes one event of the stream into text and output_tokens. False when it says the request failed.
using EventReader = bool (*)(const Json& event, LoadResult& result);

struct LoadOptions {
  double request_rate =
      std::numeric_limits<double>::infinity();  // per second, Poisson; inf: at once
  int max_concurrency = 0;                      // 0: no bound
  uint64_t seed = 1;
  bool show_progress = true;
};

struct Load {
  std::vector<LoadResult> results;  // in the order of the requests
  double duration = 0.0;            // first request sent to last response read, s
};

Load run_load(
    const Endpoint& endpoint,
    const std::vector<LoadRequest>& requests,
    EventReader reader,
    const LoadOptions& options
);

// One exchange, waited for. An Error names the address and what went wrong; a status other than 200
// is one.
Result<std::string> fetch(
    const Endpoint& endpoint,
    const std::string& method,
    const std::string& path,
    const std::string& body = ""
);

}  // namespace fathom::apps
