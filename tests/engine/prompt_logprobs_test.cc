// Log probabilities of a prompt's tokens are, to the bit, those that its tokens had when they were
// generated: in chunks, after a prefix hit, with choices, after preemption.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fathom/testing/engine_client.h"
#include "fathom/testing/tiny_model.h"

namespace fathom::testing {
namespace {

std::unique_ptr<engine::Engine> open(engine::Config config = tiny_engine_config()) {
  auto engine = engine::Engine::open(std::move(config));
  CHECK(engine.ok(), "{}", engine.error().message);
  return std::move(*engine);
}

constexpr int kPrompt = 41, kOutput = 60;

// Prompt and output of a generation, and what it said of its output.
struct Known {
  plan::Request request;
  std::vector<float> logprobs;  // of tokens kPrompt ..
};

Known generate(engine::Engine& engine, int seed) {
  Known known;
  for (int i = 0; i < kPrompt; ++i) known.request.prompt.push_back(1 + (i * 7 + seed * 13) % 200);
  known.request.sampling.temperature = 1.0f;
  known.request.sampling.seed = static_cast<uint64_t>(seed);
  known.request.sampling.max_new_tokens = kOutput;
  known.request.sampling.ignore_eos = true;
  known.request.sampling.logprobs = 0;
  EngineClient client(engine);
  const Answer answer = client.ask(known.request);
  for (const plan::TokenLogprob& token : answer.logprobs) known.logprobs.push_back(token.logprob);
  known.request.prompt.insert(
      known.request.prompt.end(), answer.tokens.begin(), answer.tokens.end()
  );
  known.request.prompt_logprobs_from = kPrompt;
  return known;
}

TEST(PromptLogprobs, AreThoseOfGeneratedTokens) {
  for (const int chunk : {8, 32, 512}) {
    engine::Config config = tiny_engine_config();
    config.chunked_prefill_size = chunk;
    const auto engine = open(config);
    const Known known = generate(*engine, chunk);
    ASSERT_EQ(known.logprobs.size(), static_cast<size_t>(kOutput));
    EngineClient client(*engine);
    const Answer answer = client.ask(known.request);
    EXPECT_EQ(answer.prompt_logprobs, known.logprobs);
    // Pages of 4: ten of them lie before token 40, which must be read to speak of token 41.
    EXPECT_EQ(answer.usage.cached_tokens, 40);
    EXPECT_EQ(answer.tokens.size(), static_cast<size_t>(kOutput));
  }
}

TEST(PromptLogprobs, OfSomeTokensAndOfChoices) {
  const auto engine = open();
  Known known = generate(*engine, 1);
  EngineClient client(*engine);
  known.request.n = 3;
  known.request.prompt_logprobs_from = kPrompt + 20;
  ASSERT_FALSE(client.submit(known.request).refused());
  ASSERT_TRUE(client.wait());
  const std::vector<float> wanted(known.logprobs.begin() + 20, known.logprobs.end());
  ASSERT_EQ(client.answers().size(), 3u);
  EXPECT_EQ(client.answers()[0].prompt_logprobs, wanted);
  EXPECT_TRUE(client.answers()[1].prompt_logprobs.empty());
  EXPECT_TRUE(client.answers()[2].prompt_logprobs.empty());
  // Who does not ask is told nothing.
  known.request.n = 1;
  known.request.prompt_logprobs_from = -1;
  EXPECT_TRUE(client.ask(known.request).prompt_logprobs.empty());
}

TEST(PromptLogprobs, SurvivePreemption) {
  const auto roomy = open();
  std::vector<Known> all;
  for (int i = 0; i < 6; ++i) all.push_back(generate(*roomy, i));
  engine::Config config = tiny_engine_config();
  config.max_total_tokens = 400;  // of 6 times 161
  const auto engine = open(config);
  EngineClient client(*engine);
  for (const Known& known : all) ASSERT_FALSE(client.submit(known.request).refused());
  ASSERT_TRUE(client.wait());
  EXPECT_GT(engine->stats().preemptions, 0);
  for (size_t i = 0; i < all.size(); ++i)
    EXPECT_EQ(client.answers()[i].prompt_logprobs, all[i].logprobs) << i;
}

TEST(PromptLogprobs, RefusesWhatHasNothingBeforeIt) {
  const auto engine = open();
  EngineClient client(*engine);
  plan::Request request;
  request.prompt = {5, 6, 7};
  for (const int from : {0, 3, -2}) {
    request.prompt_logprobs_from = from;
    const engine::Refusal refusal = client.submit(request);
    EXPECT_EQ(refusal.kind, engine::RefusalKind::invalid) << from;
    EXPECT_THAT(refusal.message, ::testing::HasSubstr("the prompt has 3"));
  }
}

}  // namespace
}  // namespace fathom::testing
