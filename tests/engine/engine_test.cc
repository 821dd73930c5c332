// The whole engine on a tiny model: what one client may ask, and that nobody else notices.
#include <gtest/gtest.h>

#include <functional>
#include <future>

#include "fathom/testing/engine_client.h"
#include "fathom/testing/tiny_model.h"
#include "fathom/text/tokenizer.h"

namespace fathom::testing {
namespace {

std::unique_ptr<engine::Engine> open(const engine::Config& config) {
  Result<std::unique_ptr<engine::Engine>> engine = engine::Engine::open(config);
  CHECK(engine.ok(), "{}", engine.error().message);
  return std::move(*engine);
}

plan::Request request_of(size_t prompt, int output) {
  plan::Request request;
  for (size_t i = 0; i < prompt; ++i)
    request.prompt.push_back(static_cast<plan::Token>(5 + 7 * i % 200));
  request.sampling.temperature = 0.0f;
  request.sampling.ignore_eos = true;
  request.sampling.max_new_tokens = output;
  return request;
}

class EngineTest : public ::testing::TestWithParam<const char*> {
 protected:
  EngineTest() {
    engine::Config config = tiny_engine_config();
    config.features = {GetParam()};
    engine_ = open(config);
  }
  std::unique_ptr<engine::Engine> engine_;
};

TEST_P(EngineTest, AnswersWithTheLengthAskedFor) {
  const Answer answer = EngineClient(*engine_).ask(request_of(20, 12));
  EXPECT_EQ(answer.tokens.size(), 12u);
  EXPECT_EQ(answer.finish, plan::FinishReason::length);
  EXPECT_EQ(answer.usage.prompt_tokens, 20);
  EXPECT_EQ(answer.usage.completion_tokens, 12);
  EXPECT_EQ(answer.text, engine_->tokenizer().decode(answer.tokens));
}

TEST_P(EngineTest, StopStringCutsAcrossTokenBorders) {
  EngineClient client(*engine_);
  const Answer whole = client.ask(request_of(9, 40));
  // A stop that spans the text of two tokens, taken from the middle of the free answer.
  const std::string before = engine_->tokenizer().decode(std::span(whole.tokens).first(10));
  const std::string after = engine_->tokenizer().decode(std::span(whole.tokens).first(14));
  ASSERT_GT(after.size(), before.size());
  plan::Request request = request_of(9, 40);
  const std::string stop = after.substr(before.size() - 1, after.size() - before.size() + 1);
  request.sampling.stop = {stop};
  const Answer cut = client.ask(std::move(request));
  EXPECT_EQ(cut.finish, plan::FinishReason::stop);
  EXPECT_EQ(cut.stop_match, stop);
  EXPECT_EQ(cut.text, whole.text.substr(0, whole.text.find(stop)));
  EXPECT_EQ(cut.usage.completion_tokens, static_cast<int>(cut.tokens.size()));
  EXPECT_EQ(cut.chunks_after_finish, 0);
}

TEST_P(EngineTest, StopIdEndsAndMinimumHoldsItBack) {
  EngineClient client(*engine_);
  const Answer whole = client.ask(request_of(9, 30));
  plan::Request request = request_of(9, 30);
  request.sampling.stop_ids = {whole.tokens[3]};
  const Answer cut = client.ask(request);
  EXPECT_EQ(cut.finish, plan::FinishReason::stop);
  EXPECT_LE(cut.tokens.size(), 4u);
  request.sampling.min_new_tokens = 20;
  const Answer held = client.ask(request);
  EXPECT_GE(held.tokens.size(), 20u);
  for (size_t i = 0; i < 20; ++i) EXPECT_NE(held.tokens[i], whole.tokens[3]);
}

TEST_P(EngineTest, ChoicesDifferAndRepeat) {
  plan::Request request = request_of(40, 16);
  request.n = 4;
  request.sampling.temperature = 1.0f;
  request.sampling.seed = 5;
  EngineClient first(*engine_), second(*engine_);
  ASSERT_FALSE(first.submit(request).refused());
  ASSERT_TRUE(first.wait());
  request.id = "again";
  ASSERT_FALSE(second.submit(request).refused());
  ASSERT_TRUE(second.wait());
  ASSERT_EQ(first.answers().size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(first.answers()[i].tokens, second.answers()[i].tokens);
    if (i > 0) {
      EXPECT_NE(first.answers()[i].tokens, first.answers()[0].tokens);
    }
  }
}

TEST_P(EngineTest, CancelEndsOneAndSparesTheOthers) {
  EngineClient client(*engine_), victim(*engine_);
  const Answer alone = client.ask(request_of(15, 60));
  plan::Request doomed = request_of(30, 900);
  doomed.id = "doomed";
  ASSERT_FALSE(victim.submit(doomed).refused());
  ASSERT_FALSE(client.submit(request_of(15, 60)).refused());
  engine_->cancel("doomed");
  engine_->cancel("never seen");
  ASSERT_TRUE(victim.wait());
  ASSERT_TRUE(client.wait());
  EXPECT_EQ(victim.answers()[0].finish, plan::FinishReason::abort);
  EXPECT_LT(victim.answers()[0].tokens.size(), 900u);
  EXPECT_EQ(client.answers().back().tokens, alone.tokens);
}

TEST_P(EngineTest, RefusesWithReasons) {
  EngineClient client(*engine_);
  const engine::Refusal too_long = client.submit(request_of(1100, 10));
  EXPECT_EQ(too_long.kind, engine::RefusalKind::too_long);
  EXPECT_NE(too_long.message.find("1100"), std::string::npos);
  plan::Request foreign = request_of(3, 3);
  foreign.prompt[1] = 100000;
  EXPECT_EQ(client.submit(foreign).kind, engine::RefusalKind::invalid);
  plan::Request empty;
  EXPECT_TRUE(client.submit(empty).refused());
}

TEST_P(EngineTest, AnIdIsFreeWhenItsEndIsHeard) {
  // The sink itself asks again under the same id, the earliest that anyone may.
  std::promise<void> answered;
  int rounds = 0;
  std::function<void()> ask = [&] {
    plan::Request request = request_of(5, 3);
    request.id = "again";
    request.sink = [&](plan::OutputChunk&& chunk) {
      if (!chunk.finish) return;
      if (++rounds == 20) return answered.set_value();
      ask();
    };
    const engine::Refusal refusal =
        engine_->submit(std::make_shared<plan::Request>(std::move(request)));
    EXPECT_FALSE(refusal.refused()) << refusal.message;
    if (refusal.refused()) answered.set_value();
  };
  ask();
  answered.get_future().wait();
  EXPECT_EQ(rounds, 20);
}

TEST_P(EngineTest, PressureFinishesEverybodyAndReturnsEveryPage) {
  engine::Config config = tiny_engine_config();
  config.features = {GetParam()};
  config.max_total_tokens = 400;
  engine_ = open(config);
  EngineClient client(*engine_);
  for (int i = 0; i < 24; ++i) {
    plan::Request request = request_of(static_cast<size_t>(10 + 11 * i % 90), 20 + i % 60);
    request.prompt[0] = 4 + i % 5;
    ASSERT_FALSE(client.submit(request).refused());
  }
  ASSERT_TRUE(client.wait());
  for (const Answer& answer : client.answers())
    EXPECT_EQ(answer.finish, plan::FinishReason::length);
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  engine::Stats stats = engine_->stats();
  while (stats.running > 0 && std::chrono::steady_clock::now() < until) stats = engine_->stats();
  // Everything but the dummy page, which is not counted, is free or in the tree.
  EXPECT_EQ(stats.pages_free + stats.pages_tree, stats.pages_total);
}

TEST_P(EngineTest, EmbedsWithUnitLength) {
  plan::Request request = request_of(70, 1);
  request.embedding = true;
  const Answer answer = EngineClient(*engine_).ask(request);
  ASSERT_EQ(answer.embedding.size(), 64u);
  double square = 0;
  for (const float v : answer.embedding) square += static_cast<double>(v) * static_cast<double>(v);
  EXPECT_NEAR(square, 1.0, 1e-5);
}

TEST_P(EngineTest, DrainFinishesWhatRunsAndRefusesWhatComes) {
  EngineClient client(*engine_);
  ASSERT_FALSE(client.submit(request_of(10, 50)).refused());
  engine_->drain(std::chrono::seconds(30));
  ASSERT_TRUE(client.wait());
  EXPECT_EQ(client.answers()[0].tokens.size(), 50u);
  EXPECT_EQ(client.submit(request_of(10, 5)).kind, engine::RefusalKind::draining);
}

INSTANTIATE_TEST_SUITE_P(
    Loops,
    EngineTest,
    ::testing::Values("-overlap_schedule", "+overlap_schedule"),
    [](const auto& loop) { return loop.param[0] == '-' ? "serial" : "overlapped"; }
);

}  // namespace
}  // namespace fathom::testing
