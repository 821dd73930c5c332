// What the feature tests of promise `same` share: one tiny engine with the feature on, one with it
// off, the same requests through both, equal tokens, and a counter that moved only where the
// feature was on.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fathom/engine/engine.h"
#include "fathom/testing/tiny_model.h"

namespace fathom::testing {

struct Outcome {
  std::vector<std::vector<plan::Token>> tokens;  // by request
  int64_t hits = 0;
};

// Runs all requests at once (their sinks are replaced) and returns what each generated.
inline std::vector<std::vector<plan::Token>> run_all(
    engine::Engine& engine, std::vector<plan::Request> requests
) {
  struct Shared {
    std::mutex mutex;
    std::condition_variable done;
    std::vector<std::vector<plan::Token>> tokens;
    size_t left = 0;
  };
  const auto shared = std::make_shared<Shared>();
  shared->tokens.resize(requests.size());
  shared->left = requests.size();
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].id = "request-" + std::to_string(i);
    requests[i].sink = [shared, i](plan::OutputChunk&& chunk) {
      const std::lock_guard lock(shared->mutex);
      auto& tokens = shared->tokens[i];
      tokens.insert(tokens.end(), chunk.tokens.begin(), chunk.tokens.end());
      if (!chunk.finish) return;
      EXPECT_NE(*chunk.finish, plan::FinishReason::failed) << chunk.error;
      if (--shared->left == 0) shared->done.notify_all();
    };
    const engine::Refusal refusal =
        engine.submit(std::make_shared<plan::Request>(std::move(requests[i])));
    EXPECT_FALSE(refusal.refused()) << refusal.message;
  }
  std::unique_lock lock(shared->mutex);
  EXPECT_TRUE(shared->done.wait_for(lock, std::chrono::seconds(60), [&] {
    return shared->left == 0;
  }));
  return shared->tokens;
}

inline Outcome run_with(
    const std::string& feature_switch,
    const std::string& feature,
    const std::vector<plan::Request>& requests
) {
  engine::Config config = tiny_engine_config();
  config.features = {feature_switch};
  Result<std::unique_ptr<engine::Engine>> engine = engine::Engine::open(config);
  EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().message);
  if (!engine) return {};
  Outcome outcome;
  // Twice, so that the second pass meets a warm prefix cache.
  outcome.tokens = run_all(**engine, requests);
  for (auto& tokens : run_all(**engine, requests)) outcome.tokens.push_back(std::move(tokens));
  outcome.hits = (*engine)->stats().feature_hits.at(feature);
  return outcome;
}

// Prompts that share prefixes, some longer than a chunk, some sampled with a seed.
std::vector<plan::Request> mixed_requests();

inline void expect_same(const std::string& feature) {
  const std::vector<plan::Request> requests = mixed_requests();
  const Outcome on = run_with("+" + feature, feature, requests);
  const Outcome off = run_with("-" + feature, feature, requests);
  EXPECT_EQ(on.tokens, off.tokens);
  EXPECT_GT(on.hits, 0) << feature << " is on but never ran";
  EXPECT_EQ(off.hits, 0) << feature << " is off but ran";
}

}  // namespace fathom::testing
