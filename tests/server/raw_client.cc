#include "tests/server/raw_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "fathom/base/check.h"

namespace fathom::testing {
namespace {

using Clock = std::chrono::steady_clock;

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) {
    return std::tolower(c);
  });
  return text;
}

}  // namespace

RawClient::RawClient(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int failed = ::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  CHECK(failed == 0, "cannot connect to port {}", port);
}

RawClient::~RawClient() {
  ::close(socket_);
}

bool RawClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool RawClient::fill(Clock::time_point deadline) {
  if (ended_) return false;
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
  pollfd poll{.fd = socket_, .events = POLLIN, .revents = 0};
  if (left.count() <= 0 || ::poll(&poll, 1, static_cast<int>(left.count())) <= 0) return false;
  char bytes[65536];
  const ssize_t size = ::recv(socket_, bytes, sizeof(bytes), 0);
  if (size <= 0) {
    ended_ = true;
    return false;
  }
  input_.append(bytes, static_cast<size_t>(size));
  return true;
}

RawResponse RawClient::read(std::chrono::milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  size_t head = 0;
  while ((head = input_.find("\r\n\r\n")) == std::string::npos) {
    if (!fill(deadline)) return {};
  }
  RawResponse response;
  response.status = std::stoi(input_.substr(9, 3));
  for (size_t at = input_.find("\r\n"); at < head;) {
    const size_t end = input_.find("\r\n", at + 2);
    const std::string line = input_.substr(at + 2, end - at - 2);
    const size_t colon = line.find(": ");
    response.headers[lower(line.substr(0, colon))] = line.substr(colon + 2);
    at = end;
  }
  input_.erase(0, head + 4);
  const auto take = [&](size_t size) {
    while (input_.size() < size && fill(deadline)) {
    }
    std::string part = input_.substr(0, size);
    input_.erase(0, part.size());
    return part;
  };
  if (response.headers.count("content-length")) {
    response.body = take(std::stoul(response.headers["content-length"]));
  } else if (response.headers.count("transfer-encoding")) {
    for (;;) {
      while (input_.find("\r\n") == std::string::npos && fill(deadline)) {
      }
      const size_t line = input_.find("\r\n");
      if (line == std::string::npos) return {};
      const size_t size = std::stoul(take(line + 2), nullptr, 16);
      response.body += take(size);
      take(2);
      if (size == 0) break;
    }
  } else {
    while (fill(deadline)) {
    }
    response.body = std::move(input_);
  }
  return response;
}

std::string RawClient::read_until(std::string_view mark, std::chrono::milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  while (input_.find(mark) == std::string::npos && fill(deadline)) {
  }
  return input_;
}

bool RawClient::closed_within(std::chrono::milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  while (fill(deadline)) {
  }
  return ended_;
}

void RawClient::reset() {
  const linger hard{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  ::close(socket_);
  socket_ = -1;
}

std::string post(std::string_view path, std::string_view body, std::string_view headers) {
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: "
      "{}\r\n{}\r\n{}",
      path,
      body.size(),
      headers,
      body
  );
}

std::string get(std::string_view path, std::string_view headers) {
  return fmt::format("GET {} HTTP/1.1\r\nHost: test\r\n{}\r\n", path, headers);
}

}  // namespace fathom::testing
