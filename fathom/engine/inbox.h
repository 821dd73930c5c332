// What other threads tell the scheduler thread. Messages are handled whole, between plan and commit
// (contracts 1).
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "fathom/plan/request.h"

namespace fathom::engine {

struct Message {
  enum class Kind : uint8_t { add, cancel, cancel_all, flush, drain, stop };
  Kind kind = Kind::stop;
  std::shared_ptr<const plan::Request> request = {};  // add
  int64_t sequence = 0;                               // add: the first of n; cancel
  plan::FinishReason reason = plan::FinishReason::abort;
  int keep = -1;                          // cancel: output tokens that the client saw
  std::function<void(bool)> answer = {};  // flush
};

// Any thread sends; one thread takes. Also rung by the step worker when a step completes.
class Inbox {
 public:
  void send(Message message) {
    {
      const std::lock_guard lock(mutex_);
      messages_.push_back(std::move(message));
    }
    wake_.notify_one();
  }

  void ring() {
    {
      const std::lock_guard lock(mutex_);
      rung_ = true;
    }
    wake_.notify_one();
  }

  // Moves what was sent into `to` (cleared first). Waits for a message or a ring, `patience` at
  // most; 0: not at all.
  void take(std::vector<Message>& to, std::chrono::milliseconds patience) {
    to.clear();
    std::unique_lock lock(mutex_);
    if (patience.count() > 0)
      wake_.wait_for(lock, patience, [this] { return rung_ || !messages_.empty(); });
    rung_ = false;
    to.swap(messages_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Message> messages_;
  bool rung_ = false;
};

}  // namespace fathom::engine
