// The engine requests of one HTTP request, from submission to the last byte. Destroying it cancels
// what has not finished: a client that went away costs at most the step under way.
//
// Threads: the connection's; the engine reaches it only through the outbox.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "fathom/engine/engine.h"
#include "fathom/server/call.h"
#include "fathom/server/metrics.h"
#include "fathom/server/outbox.h"

namespace fathom::server {

class Generation;
// What a route answers: at once, or as the engine's output comes.
using Reply = std::variant<HttpResponse, std::unique_ptr<Generation>>;

class Generation {
 public:
  // Submits one request for each of call.prompts, named call.rids, otherwise as `form` says. When
  // the engine refuses one, all are withdrawn and the refusal is the answer.
  static Reply start(
      engine::Engine& engine,
      Metrics& metrics,
      const AnswerFormat& format,
      Call call,
      const plan::Request& form,
      size_t outbox_limit
  );
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  bool streams() const { return call_.stream; }

  // Called by the engine's thread when advance() has something to take.
  void on_output(std::function<void()> waker) { outbox_->on_items(std::move(waker)); }

  // First bytes of a stream.
  void open(std::string& out) { format_.open(call_, out); }
  // Takes what has come; a stream's events are appended to `out`, the closing ones too. True when
  // everything has come.
  bool advance(std::string& out);
  // The unstreamed answer, after advance() was true.
  HttpResponse response() { return format_.whole(call_); }

 private:
  Generation(
      engine::Engine& engine,
      Metrics& metrics,
      const AnswerFormat& format,
      Call call,
      size_t outbox_limit
  );

  void take(Outbox::Item& item, std::string& out);
  void measure(const Outbox::Item& item);
  void finish(size_t prompt);
  void fail_unfinished(std::string_view why, std::string& out);

  struct Progress {      // of one engine request
    int unfinished = 0;  // choices
    bool submitted = false;
    bool queue_measured = false;
    std::vector<double> last_token_seconds;  // by choice, 0 before the first
  };

  engine::Engine& engine_;
  Metrics& metrics_;
  const AnswerFormat& format_;
  Call call_;
  std::vector<Progress> progress_;
  size_t unfinished_ = 0;  // engine requests
  std::shared_ptr<Outbox> outbox_;
  std::vector<Outbox::Item> items_;
};

}  // namespace fathom::server
