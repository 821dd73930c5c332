#include "fathom/server/service.h"

#include "fathom/base/log.h"

#include "fathom/server/errors.h"
#include "fathom/server/routes.h"

namespace fathom::server {
namespace {

// Time depends on the lengths alone, so that a key cannot be guessed byte by byte.
bool equal_secrets(std::string_view a, std::string_view b) {
  size_t difference = a.size() ^ b.size();
  for (size_t i = 0; i < a.size(); ++i) {
    const char other = b.empty() ? '\0' : b[i % b.size()];
    difference |= static_cast<unsigned char>(a[i] ^ other);
  }
  return difference == 0;
}

std::string_view bearer(std::string_view authorization) {
  constexpr std::string_view kScheme = "Bearer ";
  return authorization.starts_with(kScheme) ? authorization.substr(kScheme.size())
                                            : std::string_view();
}

bool may_enter(const ServerConfig& config, Access access, std::string_view authorization) {
  if (access == Access::open) return true;
  const std::string_view key = bearer(authorization);
  if (!config.admin_api_key.empty() && equal_secrets(key, config.admin_api_key)) return true;
  if (access == Access::admin && !config.admin_api_key.empty()) return false;
  return config.api_key.empty() || equal_secrets(key, config.api_key);
}

}  // namespace

Service::Service(ServerConfig config) : config_(std::move(config)) {
  std::random_device device;
  std::seed_seq seed{device(), device(), device(), device()};
  random_.seed(seed);
}

Reply Service::handle(HttpRequest request) {
  try {
    return dispatch(request);
  } catch (const std::exception& e) {
    log_error("{} {}: {}", request.method, request.path, e.what());
    return error_response(
        500, "an error of the server's own; its log has the details", "internal_error"
    );
  }
}

Reply Service::dispatch(HttpRequest& request) {
  const RouteMatch match = find_route(request.method, request.path);
  if (!match.route) {
    HttpResponse response = match.allowed.empty()
                                ? route_not_found(request.path)
                                : method_not_allowed(request.method, match.allowed);
    metrics_.count_response("none", response.status);
    return response;
  }
  const Route& route = *match.route;
  Reply reply;
  if (!may_enter(config_, route.access, request.authorization)) {
    reply = unauthorized();
  } else if (engine::Engine* engine = this->engine(); route.needs_engine && !engine) {
    const Phase now = phase();
    reply = unavailable(now.name, now.percent);
  } else {
    reply = route.handler(*this, request);
  }
  const auto* response = std::get_if<HttpResponse>(&reply);
  metrics_.count_response(route.path, response ? response->status : 200);
  return reply;
}

void Service::set_phase(std::string name, int percent) {
  const std::lock_guard lock(mutex_);
  phase_.name = std::move(name);
  phase_.percent = percent;
}

void Service::attach(engine::Engine& engine) {
  engine_.store(&engine);
  const std::lock_guard lock(mutex_);
  phase_ = {.name = "ready", .percent = 100, .ready = true};
}

void Service::begin_drain() {
  const std::lock_guard lock(mutex_);
  phase_ = {.name = "draining", .percent = 100, .ready = false};
}

Phase Service::phase() const {
  const std::lock_guard lock(mutex_);
  return phase_;
}

std::string Service::model_name() const {
  if (!config_.served_model_name.empty()) return config_.served_model_name;
  const engine::Engine* engine = this->engine();
  if (!engine) return "";
  std::string path = engine->config().model_path;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

uint64_t Service::random() {
  const std::lock_guard lock(mutex_);
  return random_();
}

}  // namespace fathom::server
