#include "apps/bench_serving_http.h"

#include <algorithm>
#include <charconv>

namespace fathom::apps {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

size_t number(std::string_view text, int base) {
  size_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value, base);
  return value;
}

}  // namespace

void ResponseReader::add(std::string_view bytes) {
  input_ += bytes;
  if (status_ == 0 && !read_head()) return;
  if (chunked_) {
    while (read_chunk()) {
    }
    return;
  }
  const size_t size = counted_ ? std::min(left_, input_.size()) : input_.size();
  body_.append(input_, 0, size);
  input_.erase(0, size);
  left_ -= counted_ ? size : 0;
}

bool ResponseReader::read_head() {
  const size_t end = input_.find("\r\n\r\n");
  if (end == std::string::npos) return false;
  const std::string head = lower(std::string_view(input_).substr(0, end + 2));
  input_.erase(0, end + 4);
  status_ = static_cast<int>(number(head.size() > 12 ? head.substr(9, 3) : "0", 10));
  chunked_ = head.find("\r\ntransfer-encoding: chunked\r\n") != std::string::npos;
  constexpr std::string_view kLength = "\r\ncontent-length: ";
  if (const size_t at = head.find(kLength); at != std::string::npos) {
    counted_ = true;
    left_ = number(std::string_view(head).substr(at + kLength.size()), 10);
  }
  return true;
}

bool ResponseReader::read_chunk() {
  const size_t line = input_.find("\r\n");
  if (last_chunk_ || line == std::string::npos) return false;
  const size_t size = number(std::string_view(input_).substr(0, line), 16);
  if (input_.size() < line + 2 + size + 2) return false;
  last_chunk_ = size == 0;
  body_.append(input_, line + 2, size);
  input_.erase(0, line + 2 + size + 2);
  return true;
}

bool ResponseReader::complete() const {
  if (status_ == 0) return false;
  if (chunked_) return last_chunk_;
  return counted_ ? left_ == 0 : ended_;
}

}  // namespace fathom::apps
