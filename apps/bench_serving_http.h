// Reads an HTTP/1.1 response as its bytes come: head, then a body that is chunked, counted or ended
// by the connection.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fathom::apps {

class ResponseReader {
 public:
  // Feeds bytes; what is complete of the body is appended to body().
  void add(std::string_view bytes);
  // The connection ended.
  void end() { ended_ = true; }

  int status() const { return status_; }  // 0 before the head
  bool complete() const;
  // Body so far; the caller may take from its front.
  std::string& body() { return body_; }

 private:
  bool read_head();
  bool read_chunk();

  std::string input_;
  std::string body_;
  int status_ = 0;
  bool chunked_ = false;
  bool last_chunk_ = false;
  bool ended_ = false;
  bool counted_ = false;
  size_t left_ = 0;  // of a counted body
};

}  // namespace fathom::apps
