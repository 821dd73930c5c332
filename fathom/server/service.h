// The server without its sockets: takes an HTTP request, checks key, route and readiness, and gives
// the route's reply.
//
// Threads: any.
#pragma once

#include <atomic>
#include <mutex>
#include <random>
#include <string>

#include "fathom/engine/engine.h"
#include "fathom/server/config.h"
#include "fathom/server/generation.h"
#include "fathom/server/http.h"
#include "fathom/server/metrics.h"

namespace fathom::server {

// Where the program stands between exec and exit.
struct Phase {
  std::string name = "starting";
  int percent = 0;
  bool ready = false;
};

class Service {
 public:
  explicit Service(ServerConfig config);

  // Never throws: what a handler throws becomes a 500.
  Reply handle(HttpRequest request);

  void set_phase(std::string name, int percent);
  // From here on requests are served. `engine` must outlive this.
  void attach(engine::Engine& engine);
  // Readiness off; requests are still handed to the engine, which refuses them as it drains.
  void begin_drain();

  const ServerConfig& config() const { return config_; }
  Metrics& metrics() { return metrics_; }
  Phase phase() const;
  // Null while the engine loads.
  engine::Engine* engine() const { return engine_.load(); }
  std::string model_name() const;
  // For ids and for seeds that the client did not give.
  uint64_t random();

 private:
  Reply dispatch(HttpRequest& request);

  const ServerConfig config_;
  Metrics metrics_;
  std::atomic<engine::Engine*> engine_{nullptr};
  mutable std::mutex mutex_;
  Phase phase_;
  std::mt19937_64 random_;
};

}  // namespace fathom::server
