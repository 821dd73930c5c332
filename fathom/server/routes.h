// The table of routes and what their handlers share. Handlers live by API: openai_routes.cc,
// native_routes.cc, control_routes.cc.
#pragma once

#include <string>
#include <string_view>

#include "fathom/server/openai_schema.h"
#include "fathom/server/service.h"

namespace fathom::server {

enum class Access { open, key, admin };

struct Route {
  std::string_view method;  // "" both GET and POST
  std::string_view path;    // a trailing '*' stands for any rest
  Access access;
  bool needs_engine;  // 503 with the phase before there is one
  Reply (*handler)(Service& service, const HttpRequest& request);
};

struct RouteMatch {
  const Route* route = nullptr;
  std::string allowed;  // the path's methods, when only the method is wrong
};

RouteMatch find_route(std::string_view method, std::string_view path);

// openai_routes.cc
Reply chat_completions(Service& service, const HttpRequest& request);
Reply completions(Service& service, const HttpRequest& request);
Reply embeddings(Service& service, const HttpRequest& request);
Reply list_models(Service& service, const HttpRequest& request);
Reply show_model(Service& service, const HttpRequest& request);
// native_routes.cc
Reply generate(Service& service, const HttpRequest& request);
Reply tokenize(Service& service, const HttpRequest& request);
Reply detokenize(Service& service, const HttpRequest& request);
Reply health_generate(Service& service, const HttpRequest& request);
// control_routes.cc
Reply health(Service& service, const HttpRequest& request);
Reply alive(Service& service, const HttpRequest& request);
Reply metrics(Service& service, const HttpRequest& request);
Reply server_info(Service& service, const HttpRequest& request);
Reply model_info(Service& service, const HttpRequest& request);
Reply loads(Service& service, const HttpRequest& request);
Reply version(Service& service, const HttpRequest& request);
Reply flush_cache(Service& service, const HttpRequest& request);
Reply abort_request(Service& service, const HttpRequest& request);

// Shared by handlers.
Result<Json> parse_body(const Service& service, const HttpRequest& request);
SchemaLimits schema_limits(const Service& service);
// Whether a request that names `model` is answered; "" and "default" name the served one.
bool serves(const Service& service, std::string_view model);
std::vector<plan::Token> prompt_tokens(const Service& service, const Prompt& prompt);

}  // namespace fathom::server
