// What the tests of features of nano-deepseek's layers share: the same tasks with the feature on
// and off.
#pragma once

#include <gtest/gtest.h>

#include "fathom/testing/engine_client.h"
#include "nano_tasks.h"

namespace fathom::testing {

struct NanoRun {
  std::vector<Answer> answers;
  int64_t hits = 0;
  int64_t cached = 0;
};

// The first `each` tasks of every family, twice, so that the second pass meets a warm prefix cache.
inline NanoRun run_nano(engine::Config config, const std::string& feature, int each) {
  const auto engine = open_nano(config);
  EngineClient client(*engine);
  for (int pass = 0; pass < 2; ++pass) {
    for (plan::Request& request : nano_requests(*engine, each, 60)) {
      request.sampling.logprobs = 0;
      EXPECT_FALSE(client.submit(std::move(request)).refused());
    }
    EXPECT_TRUE(client.wait(std::chrono::seconds(300)));
  }
  const engine::Stats stats = engine->stats();
  return {client.answers(), stats.feature_hits.at(feature), stats.cached_tokens};
}

// Equal tokens, and log probabilities of them within `bound` of each other.
inline void expect_close(const NanoRun& a, const NanoRun& b, double bound) {
  ASSERT_EQ(a.answers.size(), b.answers.size());
  for (size_t i = 0; i < a.answers.size(); ++i) {
    ASSERT_FALSE(a.answers[i].tokens.empty()) << a.answers[i].error;
    ASSERT_EQ(a.answers[i].tokens, b.answers[i].tokens) << "answer " << i;
    for (size_t t = 0; t < a.answers[i].logprobs.size(); ++t) {
      const float x = a.answers[i].logprobs[t].logprob, y = b.answers[i].logprobs[t].logprob;
      ASSERT_NEAR(x, y, bound) << "answer " << i << ", token " << t;
    }
  }
}

inline void compare_on_off(const std::string& feature, double bound, std::string with = "") {
  if (!with.empty()) with = "," + with;
  const NanoRun on = run_nano(nano_config({"+" + feature + with}), feature, 1);
  const NanoRun off = run_nano(nano_config({"-" + feature + with}), feature, 1);
  expect_close(on, off, bound);
  EXPECT_GT(on.hits, 0) << feature << " is on but never ran";
  EXPECT_EQ(off.hits, 0) << feature << " is off but ran";
}

}  // namespace fathom::testing
