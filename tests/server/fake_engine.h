// An engine without a model, for tests of the server: a byte-level tokenizer, ChatML, and tokens
// that are a pure function of prompt, seed, choice and position. Letters, spaces and now and then a
// two-byte character whose bytes are two tokens.
//
// Words in a prompt change what happens: "[fail]" ends with an error after three tokens, "[hang]"
// gives nothing until it is cancelled, "[end]" ends by itself after five tokens.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "fathom/engine/engine.h"
#include "fathom/text/chat_template.h"
#include "fathom/text/detokenizer.h"
#include "fathom/text/stop_matcher.h"
#include "fathom/text/tokenizer.h"

namespace fathom::testing {

struct FakeOptions {
  std::chrono::microseconds step{200};  // between two tokens of a request
  int context_length = 4096;
  int max_queued_requests = 1024;
  bool has_chat_template = true;
};

class FakeEngine final : public engine::Engine {
 public:
  explicit FakeEngine(FakeOptions options = {});
  ~FakeEngine() override;

  const engine::Config& config() const override { return config_; }
  const text::Tokenizer& tokenizer() const override { return *tokenizer_; }
  const text::ChatTemplate* chat_template() const override;
  int context_length() const override { return options_.context_length; }
  const plan::SamplingParams& default_sampling() const override { return default_sampling_; }
  Json info() const override { return {{"model", "fake"}}; }
  engine::Refusal submit(std::shared_ptr<const plan::Request> request) override;
  void cancel(const std::string& request_id) override;
  void cancel_all() override;
  bool flush_cache() override;
  engine::Stats stats() const override;
  void drain(std::chrono::milliseconds deadline) override;

  // What a test asks: the last request accepted, and whether all are gone within `deadline`.
  std::shared_ptr<const plan::Request> last_request() const;
  bool wait_until_idle(std::chrono::milliseconds deadline);

 private:
  struct Choice;
  struct Live;

  void loop();
  void step(Live& live);
  void step_choice(Live& live, Choice& choice);
  plan::Token draw(const Live& live, const Choice& choice) const;
  void end(Live& live, Choice& choice, plan::OutputChunk&& chunk, plan::FinishReason reason);

  const FakeOptions options_;
  engine::Config config_;
  plan::SamplingParams default_sampling_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::optional<text::ChatTemplate> chat_template_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Live>> live_;
  std::shared_ptr<const plan::Request> last_;
  engine::Stats stats_;
  bool draining_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace fathom::testing
