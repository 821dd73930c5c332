// Errors as OpenAI's clients expect them: {"error": {message, type, param, code}} with the status
// that says whose fault it was. `param` is the JSON pointer of the field concerned.
#pragma once

#include <string>
#include <string_view>

#include "fathom/base/result.h"
#include "fathom/engine/engine.h"
#include "fathom/server/http.h"

namespace fathom::server {

// The body alone, also sent as the last event of a stream that fails.
std::string error_body(
    std::string_view message,
    std::string_view type,
    std::string_view code,
    std::string_view param = ""
);

HttpResponse error_response(int status, std::string_view message, std::string_view code);
HttpResponse bad_request(const Error& error, std::string_view code = "invalid_value");  // 400
HttpResponse unauthorized();                                                            // 401
HttpResponse model_not_found(std::string_view asked, std::string_view served);          // 404
HttpResponse route_not_found(std::string_view path);                                    // 404
HttpResponse method_not_allowed(std::string_view method, std::string_view allowed);     // 405
HttpResponse body_too_large(size_t limit_bytes);                                        // 413
HttpResponse refused(const engine::Refusal& refusal);           // 400, 429 or 503
HttpResponse unavailable(std::string_view phase, int percent);  // 503
HttpResponse generation_failed(std::string_view message);       // 500

}  // namespace fathom::server
