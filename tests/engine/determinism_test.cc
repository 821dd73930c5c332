// Same seed and prompt, same tokens and the same bits of their log probabilities: alone, among
// others, chunked, after a prefix hit, after preemption, on any page size, with any number of
// threads.
#include <gtest/gtest.h>

#include <random>

#include "fathom/testing/engine_client.h"
#include "fathom/testing/tiny_model.h"

namespace fathom::testing {
namespace {

plan::Request subject(uint64_t seed) {
  plan::Request request;
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<plan::Token> token(4, 259);
  for (int i = 0; i < 90; ++i) request.prompt.push_back(token(random));
  request.sampling.temperature = 0.9f;
  request.sampling.seed = seed;
  request.sampling.ignore_eos = true;
  request.sampling.max_new_tokens = 40;
  request.sampling.logprobs = 5;
  return request;
}

std::unique_ptr<engine::Engine> open(const engine::Config& config) {
  Result<std::unique_ptr<engine::Engine>> engine = engine::Engine::open(config);
  CHECK(engine.ok(), "{}", engine.error().message);
  return std::move(*engine);
}

void expect_equal(const Answer& got, const Answer& wanted) {
  ASSERT_EQ(got.tokens, wanted.tokens);
  ASSERT_EQ(got.logprobs.size(), wanted.logprobs.size());
  for (size_t i = 0; i < got.logprobs.size(); ++i) {
    EXPECT_EQ(got.logprobs[i].logprob, wanted.logprobs[i].logprob) << "token " << i;
    EXPECT_EQ(got.logprobs[i].top, wanted.logprobs[i].top) << "token " << i;
  }
}

class DeterminismTest : public ::testing::Test {
 protected:
  DeterminismTest() { alone_ = EngineClient(*open(tiny_engine_config())).ask(subject(1)); }
  void expect_same_alone(const engine::Config& config) {
    expect_equal(EngineClient(*open(config)).ask(subject(1)), alone_);
  }
  Answer alone_;
};

TEST_F(DeterminismTest, AmongSixteen) {
  const auto engine = open(tiny_engine_config());
  EngineClient client(*engine);
  for (uint64_t seed = 1; seed <= 16; ++seed) ASSERT_FALSE(client.submit(subject(seed)).refused());
  ASSERT_TRUE(client.wait());
  expect_equal(client.answers()[0], alone_);
}

TEST_F(DeterminismTest, Chunked) {
  for (const int chunk : {8, 24, 64, -1}) {
    engine::Config config = tiny_engine_config();
    config.chunked_prefill_size = chunk;
    expect_same_alone(config);
  }
}

TEST_F(DeterminismTest, PagedAndThreaded) {
  for (const int page : {1, 16, 64}) {
    engine::Config config = tiny_engine_config();
    config.page_size = page;
    config.threads = page == 16 ? 1 : 3;
    expect_same_alone(config);
  }
}

TEST_F(DeterminismTest, AfterAPrefixHit) {
  const auto engine = open(tiny_engine_config());
  EngineClient client(*engine);
  client.ask(subject(1));
  const Answer again = client.ask(subject(1));
  EXPECT_GT(again.usage.cached_tokens, 0);
  expect_equal(again, alone_);
}

TEST_F(DeterminismTest, AfterPreemption) {
  engine::Config config = tiny_engine_config();
  // The youngest must give way: the pool holds about two of the eight.
  config.max_total_tokens = 300;
  config.features = {"-radix_cache"};
  const auto engine = open(config);
  EngineClient client(*engine);
  for (uint64_t seed = 8; seed >= 1; --seed) {
    plan::Request request = subject(seed);
    ASSERT_FALSE(client.submit(request).refused());
  }
  ASSERT_TRUE(client.wait());
  expect_equal(client.answers().back(), alone_);
  RecordProperty("preemptions", static_cast<int>(engine->stats().preemptions));
}

}  // namespace
}  // namespace fathom::testing
