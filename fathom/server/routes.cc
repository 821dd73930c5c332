#include "fathom/server/routes.h"

#include <array>

namespace fathom::server {
namespace {

constexpr std::array kRoutes = {
    Route{"POST", "/v1/chat/completions", Access::key, true, chat_completions},
    Route{"POST", "/v1/completions", Access::key, true, completions},
    Route{"POST", "/v1/embeddings", Access::key, true, embeddings},
    Route{"GET", "/v1/models", Access::key, true, list_models},
    Route{"GET", "/v1/models/*", Access::key, true, show_model},
    Route{"POST", "/generate", Access::key, true, generate},
    Route{"POST", "/tokenize", Access::key, true, tokenize},
    Route{"POST", "/v1/tokenize", Access::key, true, tokenize},
    Route{"POST", "/detokenize", Access::key, true, detokenize},
    Route{"POST", "/v1/detokenize", Access::key, true, detokenize},
    Route{"GET", "/health", Access::open, false, health},
    Route{"GET", "/readyz", Access::open, false, health},
    Route{"GET", "/livez", Access::open, false, alive},
    Route{"GET", "/health_generate", Access::key, true, health_generate},
    Route{"GET", "/metrics", Access::open, false, metrics},
    Route{"GET", "/server_info", Access::key, true, server_info},
    Route{"GET", "/get_server_info", Access::key, true, server_info},
    Route{"GET", "/model_info", Access::key, true, model_info},
    Route{"GET", "/get_model_info", Access::key, true, model_info},
    Route{"GET", "/v1/loads", Access::key, true, loads},
    Route{"GET", "/version", Access::open, false, version},
    Route{"", "/flush_cache", Access::admin, true, flush_cache},
    Route{"POST", "/abort_request", Access::admin, true, abort_request},
};

bool path_matches(std::string_view pattern, std::string_view path) {
  if (!pattern.ends_with('*')) return pattern == path;
  const std::string_view stem = pattern.substr(0, pattern.size() - 1);
  return path.size() > stem.size() && path.starts_with(stem);
}

bool method_matches(std::string_view wanted, std::string_view method) {
  if (method == "HEAD") method = "GET";
  return wanted.empty() ? method == "GET" || method == "POST" : wanted == method;
}

}  // namespace

RouteMatch find_route(std::string_view method, std::string_view path) {
  RouteMatch match;
  for (const Route& route : kRoutes) {
    if (!path_matches(route.path, path)) continue;
    if (method_matches(route.method, method)) {
      match.route = &route;
      return match;
    }
    match.allowed = route.method.empty() ? "GET, POST" : route.method;
  }
  return match;
}

Result<Json> parse_body(const Service& service, const HttpRequest& request) {
  const Limits& limits = service.config().limits;
  return parse_json(
      request.body, "the body", {.bytes = limits.body_bytes, .depth = limits.json_depth}
  );
}

SchemaLimits schema_limits(const Service& service) {
  const engine::Engine& engine = *service.engine();
  return {
      .max_choices = service.config().limits.choices,
      .max_prompts = service.config().limits.prompts,
      .vocabulary = engine.tokenizer().vocabulary_size(),
      .defaults = engine.default_sampling(),
  };
}

bool serves(const Service& service, std::string_view model) {
  return model.empty() || model == "default" || service.config().any_model_name ||
         model == service.model_name();
}

std::vector<plan::Token> prompt_tokens(const Service& service, const Prompt& prompt) {
  if (const auto* tokens = std::get_if<std::vector<plan::Token>>(&prompt)) return *tokens;
  return service.engine()->tokenizer().encode(std::get<std::string>(prompt));
}

}  // namespace fathom::server
