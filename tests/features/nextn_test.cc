// Speculation with the MTP layer gives the tokens, and the bits of their log probabilities, that
// plain decoding gives: chains and trees, greedy and sampled, with everything that a request may
// ask for and everything that may happen to it.
#include <gtest/gtest.h>

#include <thread>

#include "fathom/base/json.h"
#include "fathom/testing/engine_client.h"
#include "nano_tasks.h"

namespace fathom::testing {
namespace {

struct Setting {
  int steps, topk, nodes;
};
constexpr Setting kSettings[] = {{1, 1, 2}, {2, 1, 3}, {3, 1, 4}, {2, 4, 4}, {3, 4, 8}};

engine::Config with(Setting s, engine::Config config = nano_config({"+nextn"})) {
  config.speculative_num_steps = s.steps;
  config.speculative_eagle_topk = s.topk;
  config.speculative_num_draft_tokens = s.nodes;
  return config;
}

std::vector<Answer> answers(engine::Engine& engine, const std::vector<plan::Request>& requests) {
  EngineClient client(engine);
  for (const plan::Request& request : requests) {
    const engine::Refusal refusal = client.submit(request);
    EXPECT_FALSE(refusal.refused()) << refusal.message;
  }
  EXPECT_TRUE(client.wait(std::chrono::seconds(300)));
  return client.answers();
}

void expect_equal(const std::vector<Answer>& got, const std::vector<Answer>& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].tokens, wanted[i].tokens) << "answer " << i;
    EXPECT_EQ(got[i].text, wanted[i].text) << "answer " << i;
    EXPECT_EQ(got[i].finish, wanted[i].finish) << "answer " << i << ": " << got[i].error;
    EXPECT_EQ(got[i].stop_match, wanted[i].stop_match);
    EXPECT_EQ(got[i].usage.completion_tokens, wanted[i].usage.completion_tokens);
    EXPECT_EQ(got[i].chunks_after_finish, 0);
    EXPECT_EQ(got[i].prompt_logprobs, wanted[i].prompt_logprobs);
    ASSERT_EQ(got[i].logprobs.size(), wanted[i].logprobs.size());
    for (size_t t = 0; t < got[i].logprobs.size(); ++t) {
      EXPECT_EQ(got[i].logprobs[t].token, wanted[i].logprobs[t].token);
      EXPECT_EQ(got[i].logprobs[t].logprob, wanted[i].logprobs[t].logprob) << "token " << t;
      EXPECT_EQ(got[i].logprobs[t].top, wanted[i].logprobs[t].top);
    }
  }
}

// Sampled with seeds, penalties, bans, log probabilities, the prompt's too, stop strings, several
// choices.
std::vector<plan::Request> demanding_requests(const engine::Engine& engine) {
  std::vector<plan::Request> requests = nano_requests(engine, 1, 20);
  for (size_t i = 0; i < requests.size(); ++i) {
    plan::SamplingParams& p = requests[i].sampling;
    p.seed = i + 1;
    if (i % 2 == 1) p.temperature = 1.2f;
    if (i % 4 == 3) p.top_p = 0.95f;
    if (i == 1 || i == 4) p.repetition_penalty = 1.3f;
    if (i == 2) p.frequency_penalty = 0.5f;
    if (i == 3 || i == 4) p.logprobs = 3;
    if (i == 5) p.min_new_tokens = 18;
    if (i == 5 || i == 7) requests[i].prompt_logprobs_from = 3;
    if (i == 6) p.ignore_eos = true;
    if (i == 7) requests[i].n = 3;
    if (i == 0) p.stop = {"#", " is"};
    if (i == 2) p.logit_bias = {{100, 4.0f}, {7, -50.0f}};
  }
  return requests;
}

TEST(NextnTest, GreedyTokensAreThoseOfPlainDecoding) {
  const auto plain = open_nano(nano_config({"-nextn"}));
  const std::vector<plan::Request> requests = nano_requests(*plain, 2, 24);
  const std::vector<Answer> wanted = answers(*plain, requests);
  EXPECT_EQ(plain->stats().feature_hits.at("nextn"), 0);
  for (const Setting& setting : kSettings) {
    SCOPED_TRACE(fmt::format("{} {} {}", setting.steps, setting.topk, setting.nodes));
    const auto engine = open_nano(with(setting));
    expect_equal(answers(*engine, requests), wanted);
    // Again, on a warm prefix cache.
    expect_equal(answers(*engine, requests), wanted);
    EXPECT_GT(engine->stats().feature_hits.at("nextn"), 0);
    EXPECT_GT(engine->stats().cached_tokens, 0);
    EXPECT_EQ(engine->info().at("speculation").at("tokens"), setting.nodes);
  }
}

TEST(NextnTest, EverythingThatARequestMayAskFor) {
  const auto plain = open_nano(nano_config({"-nextn"}));
  const std::vector<plan::Request> requests = demanding_requests(*plain);
  const std::vector<Answer> wanted = answers(*plain, requests);
  for (const Setting& setting : {kSettings[1], kSettings[4]}) {
    SCOPED_TRACE(setting.nodes);
    const auto engine = open_nano(with(setting));
    expect_equal(answers(*engine, requests), wanted);
  }
}

TEST(NextnTest, AnyPageSizeChunkAndSchedule) {
  const auto plain = open_nano(nano_config({"-nextn"}));
  const std::vector<plan::Request> requests = demanding_requests(*plain);
  const std::vector<Answer> wanted = answers(*plain, requests);
  for (const int page : {1, 5, 64}) {
    SCOPED_TRACE(page);
    engine::Config config = with(page == 64 ? kSettings[2] : kSettings[3]);
    config.page_size = page;
    config.chunked_prefill_size = page == 5 ? 20 : 512;
    if (page == 1) config.features.emplace_back("-overlap_schedule");
    if (page == 64) config.features.emplace_back("-mixed_step,-radix_cache");
    expect_equal(answers(*open_nano(config), requests), wanted);
  }
}

TEST(NextnTest, Preempted) {
  const auto plain = open_nano(nano_config({"-nextn"}));
  std::vector<plan::Request> requests = nano_requests(*plain, 1, 100);
  for (plan::Request& request : requests) request.sampling.ignore_eos = true;
  const std::vector<Answer> wanted = answers(*plain, requests);
  for (const Setting& setting : {kSettings[2], kSettings[4]}) {
    engine::Config config = with(setting);
    config.max_total_tokens = 480;  // the youngest must give way
    const auto engine = open_nano(config);
    expect_equal(answers(*engine, requests), wanted);
    EXPECT_GT(engine->stats().preemptions, 0);
  }
}

// Pages that are free once nothing is in flight any more.
int64_t settled_pages(const engine::Engine& engine) {
  for (int i = 0; i < 5000; ++i) {
    const engine::Stats stats = engine.stats();
    if (stats.running == 0 && stats.pages_free + stats.pages_tree == stats.pages_total)
      return stats.pages_free;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ADD_FAILURE() << "pages are missing";
  return -1;
}

// The pages that each request leaves behind are those that it leaves without speculation.
TEST(NextnTest, PagesComeBack) {
  const auto pages_left = [](const engine::Config& config) {
    const auto engine = open_nano(config);
    EngineClient client(*engine);
    std::vector<int64_t> left;
    for (const plan::Request& request : nano_requests(*engine, 1, 24)) {
      client.ask(request);
      left.push_back(settled_pages(*engine));
    }
    return left;
  };
  const std::vector<int64_t> wanted = pages_left(nano_config({"-nextn"}));
  ASSERT_EQ(wanted.size(), 8u);
  EXPECT_LT(wanted.back(), wanted.front());  // each leaves its pages in the tree
  for (const Setting& setting : kSettings) {
    SCOPED_TRACE(fmt::format("{} {} {}", setting.steps, setting.topk, setting.nodes));
    EXPECT_EQ(pages_left(with(setting)), wanted);
  }
}

TEST(NextnTest, CancelledRequestsLeaveNothing) {
  const auto engine = open_nano(with(kSettings[4]));
  EngineClient client(*engine);
  std::vector<plan::Request> requests = nano_requests(*engine, 2, 400);
  for (plan::Request& request : requests) {
    request.sampling.ignore_eos = true;
    ASSERT_FALSE(client.submit(request).refused());
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  engine->cancel_all();
  ASSERT_TRUE(client.wait());
  engine->drain(std::chrono::seconds(10));
  const engine::Stats stats = engine->stats();
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.pages_free + stats.pages_tree, stats.pages_total);
}

// models/nano-deepseek/README.md: acceptance of one draft is 1 on these families but for tools and
// multiturn, 0.9993 at least.
TEST(NextnTest, AcceptLengthIsOnePlusTheRecordedAcceptance) {
  const auto engine = open_nano(with(kSettings[0]));
  answers(*engine, nano_requests(*engine, 2, 100));
  const engine::Stats stats = engine->stats();
  EXPECT_GE(stats.accept_length, 1.99);
  EXPECT_GE(stats.accept_rate, 0.99);
}

// Chains that stop behind unlikely tokens draft less; what comes out is the same, in a batch whose
// chains differ in length.
TEST(NextnTest, ChainsStopWhereTheyAreNotSure) {
  const auto plain = open_nano(nano_config({"-nextn"}));
  const std::vector<plan::Request> requests = nano_requests(*plain, 2, 40);
  const std::vector<Answer> wanted = answers(*plain, requests);
  const auto stats_with = [&](float least) {
    engine::Config config = with({6, 1, 7});
    config.speculative_draft_p_min = least;
    const auto engine = open_nano(config);
    expect_equal(answers(*engine, requests), wanted);
    return engine->stats();
  };
  const engine::Stats all = stats_with(0.0f), sure = stats_with(0.9f), one = stats_with(1.0f);
  EXPECT_LT(sure.draft_levels, all.draft_levels * 3 / 4);
  EXPECT_GT(sure.accept_length, 2.2);
  EXPECT_LT(sure.accept_length, all.accept_length);
  EXPECT_LT(one.accept_length, sure.accept_length);
  EXPECT_GT(one.accept_length, 1.99);  // what is at hand is always verified
}

TEST(NextnTest, ThresholdsAcceptMore) {
  const auto rate = [](float single) {
    engine::Config config = with(kSettings[4]);
    config.speculative_accept_threshold_single = single;
    const auto engine = open_nano(config);
    std::vector<plan::Request> requests = nano_requests(*engine, 1, 40);
    for (plan::Request& request : requests) {
      request.sampling.temperature = 3.0f;
      request.sampling.seed = 11;
    }
    answers(*engine, requests);
    return engine->stats().accept_rate;
  };
  EXPECT_GT(rate(0.02f), rate(1.0f));
}

TEST(NextnTest, WhatCannotBeIsRefused) {
  engine::Config config = nano_config({"+nextn"});
  config.speculative_num_steps = 1;
  config.speculative_num_draft_tokens = 5;
  auto engine = engine::Engine::open(config);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().message.find("num-draft-tokens"), std::string::npos);
  config = nano_config({"+nextn"});
  config.model_path = "tests/data/tiny-llama";
  config.load_format = "dummy";
  engine = engine::Engine::open(config);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().message.find("no MTP layer"), std::string::npos);
}

}  // namespace
}  // namespace fathom::testing
