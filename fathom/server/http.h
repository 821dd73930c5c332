// HTTP messages as the routes see them: plain data, no library type. Reading and writing them on a
// socket is session.cc's matter.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fathom::server {

struct HttpRequest {
  std::string method;  // as sent: "GET", "POST"
  std::string path;    // target without its query
  std::string authorization;
  std::string body;
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers = {};  // besides those of the framing
};

// What the connection decides about the framing of an answer.
struct Framing {
  bool keep_alive = true;
  bool chunked = true;  // false towards HTTP/1.0: the end of a stream is the end of the connection
  bool head_only = false;  // HEAD: the length is said, the body left out
};

// `text` with its %XX escapes replaced; what is no escape stays.
std::string percent_decoded(std::string_view text);

// A whole response, ready to be sent.
std::string serialize(const HttpResponse& response, const Framing& framing);

// The head of a text/event-stream response; its events follow as wrapped by stream_chunk.
std::string stream_head(const Framing& framing);

// `bytes` as one piece of a streamed body, and the piece that ends the body.
std::string stream_chunk(std::string_view bytes, const Framing& framing);
std::string_view stream_end(const Framing& framing);

}  // namespace fathom::server
