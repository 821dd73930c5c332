// A client that sends exactly the bytes a test wants, well-formed or not, over a plain socket.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <string_view>

namespace fathom::testing {

struct RawResponse {
  int status = 0;                              // 0: the connection ended before a response came
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // chunked bodies joined
};

class RawClient {
 public:
  explicit RawClient(int port);  // 127.0.0.1
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  // False when the server closed meanwhile.
  bool send(std::string_view bytes);
  // The next response of the connection.
  RawResponse read(std::chrono::milliseconds timeout = std::chrono::seconds(20));
  // Bytes as they come until `mark` is among them or the time is up.
  std::string read_until(
      std::string_view mark, std::chrono::milliseconds timeout = std::chrono::seconds(20)
  );
  // Whether the server closes within the time; what it sends before is dropped.
  bool closed_within(std::chrono::milliseconds timeout);
  // Resets the connection instead of closing it in order.
  void reset();

 private:
  bool fill(std::chrono::steady_clock::time_point deadline);

  int socket_ = -1;
  std::string input_;
  bool ended_ = false;
};

std::string post(std::string_view path, std::string_view body, std::string_view headers = "");
std::string get(std::string_view path, std::string_view headers = "");

}  // namespace fathom::testing
