// What the engine has said to one HTTP request and the connection has not yet taken. The engine's
// text worker puts, the connection's thread takes; neither waits for the other. A client that reads
// too slowly fills its outbox and loses its request, nobody else's.
#pragma once

#include <cstddef>
#include <functional>
#include <mutex>
#include <vector>

#include "fathom/plan/request.h"

namespace fathom::server {

class Outbox {
 public:
  struct Item {
    size_t prompt = 0;  // which of the HTTP request's engine requests
    plan::OutputChunk chunk;
    double arrival_seconds = 0.0;  // steady clock
  };

  explicit Outbox(size_t limit_items) : limit_items_(limit_items) {}

  // Any thread. Calls the waker when items were awaited.
  void put(size_t prompt, plan::OutputChunk&& chunk);

  // Appends what has come to `items` and arms the waker again. False when the limit was passed:
  // items are missing and the request cannot be answered.
  bool take(std::vector<Item>& items);

  // `waker` is called once for each time that items come after a take(), by the thread that puts;
  // at once, by the caller, when some are there already.
  void on_items(std::function<void()> waker);
  // Afterwards the waker is neither called nor held. Returns after a call under way.
  void close();

 private:
  const size_t limit_items_;
  std::mutex mutex_;
  std::vector<Item> items_;
  std::function<void()> waker_;
  bool awaited_ = true;
  bool overflowed_ = false;
  bool closed_ = false;
};

}  // namespace fathom::server
