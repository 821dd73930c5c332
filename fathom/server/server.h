// The HTTP server as a program embeds it. It listens before there is an engine, so that /health can
// tell how far loading is.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "fathom/base/result.h"
#include "fathom/engine/engine.h"
#include "fathom/server/config.h"
#include "fathom/server/service.h"

namespace fathom::server {

class Server {
 public:
  // Binds and starts the server pool. The Error names address and reason.
  static Result<std::unique_ptr<Server>> listen(ServerConfig config);
  // Closes what is open; requests under way are cancelled in their engine.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const;
  // Phase, engine, metrics; see service.h for when each may be set.
  Service& service();

  // Readiness off, and every answer from now on is its connection's last. Connections are still
  // accepted, so that probes see the 503.
  void begin_drain();
  // Waits until the answers under way are sent, at most `deadline`, then stops. The engine must
  // have told all requests their end before, or they are cut off.
  void stop(std::chrono::milliseconds deadline);

 private:
  struct Parts;
  explicit Server(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

// Called as loading goes on: what is being done, and how far it is in per cent.
using Progress = std::function<void(std::string phase, int percent)>;
using EngineOpener = std::function<Result<std::unique_ptr<engine::Engine>>(const Progress&)>;

// Serves until SIGTERM or SIGINT: then readiness off, accepted requests finish within
// config.drain_timeout, exit status 0. A second signal ends them at once. Blocks the two signals in
// the calling thread and those it starts, hence the engine's.
int serve(const ServerConfig& config, const EngineOpener& open);

}  // namespace fathom::server
