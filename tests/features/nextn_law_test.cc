// Speculation draws from the law that the model and the sampling parameters state (spec 8.3): the
// frequencies of whole answers against probabilities multiplied from raw log probabilities of plain
// decoding, which no sampler has touched.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "fathom/testing/engine_client.h"
#include "nano_tasks.h"

namespace fathom::testing {
namespace {

constexpr int kLength = 3, kTopK = 3;
constexpr float kTemperature = 8.0f;
constexpr int kDraws = 400;

using Tokens = std::vector<plan::Token>;
using Law = std::map<Tokens, double>;  // of all answers of kLength tokens

plan::Request request_of(const engine::Engine& engine) {
  plan::Request request = nano_requests(engine, 1, kLength)[5];  // prose
  request.prompt.resize(16);
  request.sampling.ignore_eos = true;
  return request;
}

Law law_of(engine::Engine& engine) {
  Law law{{{}, 1.0}};
  for (int length = 0; length < kLength; ++length) {
    EngineClient client(engine);
    for (const auto& [prefix, p] : law) {
      plan::Request request = request_of(engine);
      request.prompt.insert(request.prompt.end(), prefix.begin(), prefix.end());
      request.sampling.max_new_tokens = 1;
      request.sampling.logprobs = kTopK;
      EXPECT_FALSE(client.submit(std::move(request)).refused());
    }
    EXPECT_TRUE(client.wait(std::chrono::seconds(300)));
    const std::vector<Answer> answers = client.answers();
    Law longer;
    size_t at = 0;
    for (const auto& [prefix, p] : law) {
      double sum = 0;
      std::vector<std::pair<Tokens, double>> next;
      for (const auto& [token, logprob] : answers.at(at++).logprobs.at(0).top) {
        next.emplace_back(prefix, std::exp(logprob / kTemperature));
        next.back().first.push_back(token);
        sum += next.back().second;
      }
      for (const auto& [tokens, weight] : next) longer[tokens] = p * weight / sum;
    }
    law = std::move(longer);
  }
  return law;
}

std::map<Tokens, int> draw(engine::Engine& engine, uint64_t first_seed) {
  EngineClient client(engine);
  for (int i = 0; i < kDraws; ++i) {
    plan::Request request = request_of(engine);
    request.sampling.temperature = kTemperature;
    request.sampling.top_k = kTopK;
    request.sampling.seed = first_seed + static_cast<uint64_t>(i);
    EXPECT_FALSE(client.submit(std::move(request)).refused());
  }
  EXPECT_TRUE(client.wait(std::chrono::seconds(300)));
  std::map<Tokens, int> counts;
  for (const Answer& answer : client.answers()) ++counts[answer.tokens];
  return counts;
}

// Chi-square over its degrees of freedom in standard deviations (Wilson and Hilferty): about
// normal. Answers that are expected fewer than five times make one class.
double deviations(const std::map<Tokens, int>& counts, const Law& law) {
  double sum = 0, rare = 0, rare_count = 0;
  int classes = 0, known = 0;
  const auto add = [&](double count, double expected) {
    sum += (count - expected) * (count - expected) / expected;
    ++classes;
  };
  for (const auto& [tokens, p] : law) {
    const auto found = counts.find(tokens);
    const int count = found == counts.end() ? 0 : found->second;
    known += count;
    if (p * kDraws >= 5) {
      add(count, p * kDraws);
    } else {
      rare += p * kDraws;
      rare_count += count;
    }
  }
  EXPECT_EQ(known, kDraws) << "answers outside the law";
  if (rare > 0) add(rare_count, rare);
  EXPECT_GT(classes, 12);
  const double freedom = classes - 1, width = 2 / (9 * freedom);
  return (std::cbrt(sum / freedom) - (1 - width)) / std::sqrt(width);
}

TEST(NextnLawTest, FrequenciesOfChainsAndTrees) {
  struct Setting {
    int steps, topk, nodes;
    float threshold;
  };
  uint64_t first_seed = 1;
  const Law law = law_of(*open_nano(nano_config({"-nextn"})));
  for (const Setting& s : {Setting{2, 1, 3, 1.0f}, {3, 4, 8, 1.0f}, {3, 4, 8, 0.02f}}) {
    SCOPED_TRACE(fmt::format("{} {} {}, threshold {}", s.steps, s.topk, s.nodes, s.threshold));
    engine::Config config = nano_config({"+nextn"});
    config.max_queued_requests = kDraws;
    config.speculative_num_steps = s.steps;
    config.speculative_eagle_topk = s.topk;
    config.speculative_num_draft_tokens = s.nodes;
    config.speculative_accept_threshold_single = s.threshold;
    const auto engine = open_nano(config);
    const double found = deviations(draw(*engine, first_seed += kDraws), law);
    EXPECT_GT(engine->stats().feature_hits.at("nextn"), kDraws / 10);
    EXPECT_GT(engine->stats().accept_length, 1.1);
    fmt::print("{} {} {}: {:.2f}\n", s.steps, s.topk, s.nodes, found);
    // 3.1: the 0.1 % point. A threshold below 1 states another law, which the statistic must see.
    if (s.threshold < 1) {
      EXPECT_GT(found, 10);
    } else {
      EXPECT_LT(found, 3.1);
    }
  }
}

}  // namespace
}  // namespace fathom::testing
