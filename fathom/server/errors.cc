#include "fathom/server/errors.h"

#include "fathom/server/json_text.h"

namespace fathom::server {
namespace {

Json nullable(std::string_view text) {
  return text.empty() ? Json(nullptr) : Json(text);
}

std::string_view type_of(int status) {
  if (status == 401) return "authentication_error";
  if (status == 404) return "not_found_error";
  if (status == 429) return "rate_limit_error";
  if (status == 503) return "service_unavailable_error";
  return status < 500 ? "invalid_request_error" : "server_error";
}

}  // namespace

std::string error_body(
    std::string_view message, std::string_view type, std::string_view code, std::string_view param
) {
  return dump(
      {{"error",
        {{"message", message},
         {"type", type},
         {"param", nullable(param)},
         {"code", nullable(code)}}}}
  );
}

HttpResponse error_response(int status, std::string_view message, std::string_view code) {
  return {.status = status, .body = error_body(message, type_of(status), code)};
}

HttpResponse bad_request(const Error& error, std::string_view code) {
  return {.status = 400, .body = error_body(error.message, type_of(400), code, error.field)};
}

HttpResponse unauthorized() {
  HttpResponse response = error_response(
      401,
      "this server wants its key: send the header 'Authorization: Bearer KEY'",
      "invalid_api_key"
  );
  response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

HttpResponse model_not_found(std::string_view asked, std::string_view served) {
  const std::string message =
      fmt::format("the model '{}' is not served here; served: '{}'", asked, served);
  return {
      .status = 404,
      .body = error_body(message, type_of(404), "model_not_found", "/model"),
  };
}

HttpResponse route_not_found(std::string_view path) {
  return error_response(404, fmt::format("no such route: {}", path), "route_not_found");
}

HttpResponse method_not_allowed(std::string_view method, std::string_view allowed) {
  HttpResponse response = error_response(
      405, fmt::format("this route takes {}, not {}", allowed, method), "method_not_allowed"
  );
  response.headers.emplace_back("Allow", allowed);
  return response;
}

HttpResponse body_too_large(size_t limit_bytes) {
  return error_response(
      413, fmt::format("the body is larger than {} bytes", limit_bytes), "body_too_large"
  );
}

HttpResponse refused(const engine::Refusal& refusal) {
  switch (refusal.kind) {
    case engine::RefusalKind::queue_full: {
      HttpResponse response = error_response(429, refusal.message, "queue_full");
      response.headers.emplace_back(
          "Retry-After", std::to_string(std::max(1, refusal.retry_after_seconds))
      );
      return response;
    }
    case engine::RefusalKind::draining:
      return unavailable("draining", 100);
    case engine::RefusalKind::too_long:
      return bad_request(Error{refusal.message}, "context_length_exceeded");
    default:
      return bad_request(Error{refusal.message});
  }
}

HttpResponse unavailable(std::string_view phase, int percent) {
  const Json body = {
      {"error",
       {{"message", fmt::format("not ready: {} ({} %)", phase, percent)},
        {"type", type_of(503)},
        {"param", nullptr},
        {"code", "not_ready"},
        {"phase", phase},
        {"percent", percent}}}};
  HttpResponse response{.status = 503, .body = dump(body)};
  response.headers.emplace_back("Retry-After", "1");
  return response;
}

HttpResponse generation_failed(std::string_view message) {
  return error_response(500, message, "generation_failed");
}

}  // namespace fathom::server
