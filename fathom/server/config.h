// What `fathom serve` may be told about its HTTP side.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace fathom::server {

struct Limits {
  size_t body_bytes = size_t{32} << 20;
  size_t header_bytes = size_t{16} << 10;
  int json_depth = 64;
  int connections = 1024;
  int choices = 128;                      // n of one request
  int prompts = 256;                      // of one body
  size_t outbox_items = 65536;            // pieces of output that a slow client may leave untaken
  std::chrono::seconds head_timeout{30};  // to send a request's head, once begun or connected
  std::chrono::seconds idle_timeout{75};  // between two requests of a connection
  std::chrono::seconds body_timeout{60};
  std::chrono::seconds write_timeout{60};  // for one write to be taken
};

struct ServerConfig {
  std::string host = "127.0.0.1";
  int port = 30000;               // 0: any free one
  std::string api_key;            // "": none asked
  std::string admin_api_key;      // for /flush_cache and /abort_request; "": the api_key serves
  std::string served_model_name;  // "": the model path's last part
  bool any_model_name = false;    // answer whatever model a request names
  int threads = 0;                // of the server pool; 0: from the CPUs this process may use
  std::chrono::seconds drain_timeout{30};  // after SIGTERM, for accepted requests to finish
  Limits limits;
};

}  // namespace fathom::server
