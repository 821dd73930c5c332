// A client of an Engine for tests: submits requests, collects what their sinks receive, waits.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "fathom/engine/engine.h"

namespace fathom::testing {

// Everything one choice received.
struct Answer {
  std::string text;
  std::vector<plan::Token> tokens;
  std::vector<plan::TokenLogprob> logprobs;
  std::vector<float> embedding, prompt_logprobs;
  std::optional<plan::FinishReason> finish;
  std::string stop_match, error;
  plan::Usage usage;
  int chunks_after_finish = 0;  // must stay 0
};

class EngineClient {
 public:
  explicit EngineClient(engine::Engine& engine) : engine_(engine) {}

  // Submits; the answers come in the order of submission, choices side by side.
  engine::Refusal submit(plan::Request request);
  // Until all accepted choices have finished; false after `patience`.
  bool wait(std::chrono::seconds patience = std::chrono::seconds(60));
  std::vector<Answer> answers() const;

  // submit, wait, the one answer.
  Answer ask(plan::Request request);

 private:
  struct Shared {
    mutable std::mutex mutex;
    std::condition_variable done;
    std::vector<Answer> answers;
    size_t left = 0;
  };
  engine::Engine& engine_;
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
  int serial_ = 0;
};

}  // namespace fathom::testing
