// One client's connection: reads requests, has the service answer them, writes the answers, one
// after the other. While an answer is awaited the socket is watched, so that a client that leaves
// is noticed at once and its generation cancelled.
//
// Threads: a coroutine on its connection's strand.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <condition_variable>
#include <mutex>

#include "fathom/server/service.h"

namespace fathom::server {

// Answers under way, for a stop that lets them be sent.
class Answering {
 public:
  void begin();
  void end();
  // False when some were left at the deadline.
  bool wait_until_none(std::chrono::milliseconds deadline);
  // From now on every answer is its connection's last.
  void close_after_answers();
  bool closing() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable none_;
  int count_ = 0;
  bool closing_ = false;
};

boost::asio::awaitable<void> run_session(
    boost::asio::ip::tcp::socket socket, Service& service, Answering& answering
);

// Tells a client above the limit of connections to come back later.
boost::asio::awaitable<void> refuse_session(boost::asio::ip::tcp::socket socket, int limit);

}  // namespace fathom::server
