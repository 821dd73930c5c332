// The bits of every token's log probabilities on nano-deepseek: in a batch, in chunks, from the
// prefix cache, preempted, with each feature of promise `same` switched over, as alone without any
// of that.
#include <gtest/gtest.h>

#include "fathom/engine/features.h"
#include "fathom/testing/engine_client.h"
#include "tests/features/nano_tasks.h"

namespace fathom::testing {
namespace {

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
  int64_t features = 0, preemptions = 0;
  for (const engine::FeatureRow& row : engine::kFeatures) {
    if (row.promise != engine::Promise::same) continue;
    ++features;
    SCOPED_TRACE(row.name);
    for (const char* way : {"+", "-"}) {
      engine::Config config = nano_config({way + std::string(row.name)});
      const auto plain = open_nano(config);
      EXPECT_EQ(together(*plain), wanted) << way << " in a batch";
      EXPECT_EQ(together(*plain), wanted) << way << " again, from the cache where it is on";
      config.chunked_prefill_size = 20;
      config.max_total_tokens = 480;  // the youngest must give way
      const auto tight = open_nano(config);
      EXPECT_EQ(together(*tight), wanted) << way << " in chunks, preempted";
      preemptions += tight->stats().preemptions;
    }
  }
  EXPECT_GE(features, 6);
  EXPECT_GE(preemptions, features);
}

}  // namespace
}  // namespace fathom::testing
