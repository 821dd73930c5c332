#include "fathom/server/http.h"

#include <fmt/format.h>

#include <charconv>

namespace fathom::server {
namespace {

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 413:
      return "Content Too Large";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    default:
      return "Unknown";
  }
}

std::string_view connection(const Framing& framing) {
  return framing.keep_alive ? "keep-alive" : "close";
}

}  // namespace

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    int byte = 0;
    const char* digits = text.data() + i + 1;
    const bool escape = text[i] == '%' && i + 2 < text.size() &&
                        std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2;
    out += escape ? static_cast<char>(byte) : text[i];
    if (escape) i += 2;
  }
  return out;
}

std::string serialize(const HttpResponse& response, const Framing& framing) {
  std::string out = fmt::format(
      "HTTP/1.1 {} {}\r\nServer: fathom\r\nConnection: {}\r\nContent-Type: {}\r\n"
      "Content-Length: {}\r\n",
      response.status,
      reason_phrase(response.status),
      connection(framing),
      response.content_type,
      response.body.size()
  );
  for (const auto& [name, value] : response.headers) out += fmt::format("{}: {}\r\n", name, value);
  out += "\r\n";
  if (!framing.head_only) out += response.body;
  return out;
}

std::string stream_head(const Framing& framing) {
  return fmt::format(
      "HTTP/1.1 200 OK\r\nServer: fathom\r\nConnection: {}\r\nContent-Type: text/event-stream\r\n"
      "Cache-Control: no-cache\r\n{}\r\n",
      connection(framing),
      framing.chunked ? "Transfer-Encoding: chunked\r\n" : ""
  );
}

std::string stream_chunk(std::string_view bytes, const Framing& framing) {
  // An empty chunk would end the body.
  if (!framing.chunked || bytes.empty()) return std::string(bytes);
  return fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes);
}

std::string_view stream_end(const Framing& framing) {
  return framing.chunked ? "0\r\n\r\n" : "";
}

}  // namespace fathom::server
