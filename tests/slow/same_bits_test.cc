// The bits of every token's log probabilities on nano-deepseek: in a batch, in chunks, from the
// prefix cache, preempted, with each feature of promise `same` switched over, as alone without any
// of that.
#include <gtest/gtest.h>

#include "fathom/engine/features.h"
#include "fathom/testing/engine_client.h"
#include "tests/features/nano_tasks.h"

namespace fathom::testing {
namespace {

// Tokens of KV: a third of what the requests grow to, so that the youngest must give way.
constexpr int64_t kTight = 320;

using Bits = std::vector<std::vector<std::pair<plan::Token, float>>>;

std::vector<plan::Request> requests_of(const engine::Engine& engine) {
  std::vector<plan::Request> requests = nano_requests(engine, 1, 60);
  for (plan::Request& request : requests) {
    request.sampling.logprobs = 0;
    request.sampling.ignore_eos = true;
  }
  return requests;
}

Bits bits_of(const std::vector<Answer>& answers) {
  Bits bits;
  for (const Answer& answer : answers) {
    bits.emplace_back();
    for (const auto& token : answer.logprobs) bits.back().emplace_back(token.token, token.logprob);
  }
  return bits;
}

Bits alone() {
  const auto engine = open_nano(nano_config({"-radix_cache"}));
  EngineClient client(*engine);
  std::vector<Answer> answers;
  for (plan::Request& request : requests_of(*engine))
    answers.push_back(client.ask(std::move(request)));
  return bits_of(answers);
}

Bits together(engine::Engine& engine) {
  EngineClient client(engine);
  for (plan::Request& request : requests_of(engine))
    EXPECT_FALSE(client.submit(std::move(request)).refused());
  EXPECT_TRUE(client.wait(std::chrono::seconds(300)));
  return bits_of(client.answers());
}

TEST(SameBits, EveryFeatureOfPromiseSame) {
  const Bits wanted = alone();
  ASSERT_EQ(wanted.size(), 8u);
  ASSERT_EQ(wanted[0].size(), 60u);
  int64_t features = 0;
  for (const engine::FeatureRow& row : engine::kFeatures) {
    if (row.promise != engine::Promise::same) continue;
    ++features;
    for (const char* way : {"+", "-"}) {
      const std::string choice = way + std::string(row.name);
      SCOPED_TRACE(choice);
      engine::Config config = nano_config({choice});
      const auto plain = open_nano(config);
      EXPECT_EQ(together(*plain), wanted) << "in a batch";
      EXPECT_EQ(together(*plain), wanted) << "again, from the cache where it is on";
      EXPECT_EQ(plain->stats().cached_tokens > 0, choice != "-radix_cache");
      config.chunked_prefill_size = 20;
      config.max_total_tokens = kTight;
      const auto tight = open_nano(config);
      EXPECT_EQ(together(*tight), wanted) << "in chunks, preempted";
      EXPECT_GT(tight->stats().preemptions, 0);
      EXPECT_EQ(
          tight->stats().feature_hits.at("chunked_prefill") > 0, choice != "-chunked_prefill"
      );
    }
  }
  EXPECT_GE(features, 6);
}

}  // namespace
}  // namespace fathom::testing
