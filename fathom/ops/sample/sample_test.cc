// What the cases cannot say: that the law drawn from is the one promised.
#include "fathom/ops/sample/sample.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <vector>

#include "fathom/testing/op_case.h"

namespace fathom::ops {
namespace {

struct OneRow {
  std::vector<float> logits;
  float temperature = 1.0f, top_p = 1.0f, min_p = 0.0f;
  int32_t top_k = 0;
  std::vector<int32_t> drafts = {};
  float threshold_single = 1.0f, threshold_acc = 1.0f;
};

// Draws at positions 0 .. draws - 1 and counts the tokens.
std::map<int32_t, int> histogram(OneRow row, int draws) {
  const int64_t V = static_cast<int64_t>(row.logits.size());
  const Device cpu = Device::cpu();
  const testing::detail::HostWorkspace workspace;
  Exec exec;
  exec.workspace = workspace.get();
  std::map<int32_t, int> counts;
  for (int32_t position = 0; position < draws; ++position) {
    int64_t seed = 42;
    int32_t token = -1;
    uint8_t healthy = 0;
    Sample args;
    args.logits = Tensor::of(row.logits.data(), DType::f32, cpu, {1, V});
    args.temperature = Tensor::of(&row.temperature, DType::f32, cpu, {1});
    args.top_p = Tensor::of(&row.top_p, DType::f32, cpu, {1});
    args.min_p = Tensor::of(&row.min_p, DType::f32, cpu, {1});
    args.top_k = Tensor::of(&row.top_k, DType::i32, cpu, {1});
    args.seed = Tensor::of(&seed, DType::i64, cpu, {1});
    args.position = Tensor::of(&position, DType::i32, cpu, {1});
    args.token = Tensor::of(&token, DType::i32, cpu, {1});
    args.healthy = Tensor::of(&healthy, DType::u8, cpu, {1});
    std::vector<int32_t> draft_begin{0, static_cast<int32_t>(row.drafts.size())};
    if (!row.drafts.empty()) {
      args.draft_begin = Tensor::of(draft_begin.data(), DType::i32, cpu, {2});
      args.draft_token = Tensor::of(row.drafts.data(), DType::i32, cpu, {draft_begin[1]});
      args.threshold_single = row.threshold_single;
      args.threshold_acc = row.threshold_acc;
    }
    sample(exec, args);
    EXPECT_EQ(healthy, 1);
    ++counts[token];
  }
  return counts;
}

double chi_square(const std::map<int32_t, int>& counts, const std::vector<double>& p, int draws) {
  double sum = 0;
  for (size_t v = 0; v < p.size(); ++v) {
    if (p[v] == 0) continue;
    const auto found = counts.find(static_cast<int32_t>(v));
    const double expected = p[v] * draws;
    const double got = found == counts.end() ? 0 : found->second;
    sum += (got - expected) * (got - expected) / expected;
  }
  return sum;
}

TEST(SampleTest, DraftsKeepTheLaw) {
  const int draws = 20000;
  const std::vector<double> p{0.4, 0.3, 0.2, 0.1};
  std::vector<float> logits;
  for (const double mass : p) logits.push_back(static_cast<float>(std::log(mass)));
  for (const std::vector<int32_t>& drafts :
       {std::vector<int32_t>{3}, {1, 0}, {2, 3, 0}, {0, 1, 2, 3}}) {
    // 16.3: the 0.1 % point of chi-square with 3 degrees of freedom.
    EXPECT_LT(chi_square(histogram({.logits = logits, .drafts = drafts}, draws), p, draws), 16.3);
  }
}

TEST(SampleTest, DraftsBelowTheThresholdsTakeMore) {
  const int draws = 20000;
  const std::vector<float> even(4, 0.0f);
  const auto single = histogram({.logits = even, .drafts = {2}, .threshold_single = 0.2f}, draws);
  EXPECT_EQ(single.at(2), draws);
  auto acc = histogram({.logits = even, .drafts = {2}, .threshold_acc = 0.5f}, draws);
  EXPECT_NEAR(acc.at(2), draws / 2, draws / 50);
}

TEST(SampleTest, DrawsFollowTheSoftmax) {
  const int draws = 20000;
  const auto counts = histogram(
      {.logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)}}, draws
  );
  // 3 degrees of freedom: 16.3 is passed once in a thousand seeds.
  EXPECT_LT(chi_square(counts, {0.5, 0.3, 0.15, 0.05}, draws), 16.3);
}

TEST(SampleTest, CutsKeepWhatTheyPromise) {
  const std::vector<float> logits = {
      std::log(0.05f), std::log(0.5f), std::log(0.15f), std::log(0.3f)};
  const int draws = 5000;
  const auto top_k = histogram({.logits = logits, .top_k = 2}, draws);
  EXPECT_EQ(top_k.size(), 2u);
  EXPECT_LT(chi_square(top_k, {0, 0.625, 0, 0.375}, draws), 10.9);
  // 0.5 + 0.3 reaches 0.75; the first alone does not.
  EXPECT_EQ(histogram({.logits = logits, .top_p = 0.75f}, draws).size(), 2u);
  EXPECT_EQ(histogram({.logits = logits, .top_p = 0.0f}, draws).size(), 1u);
  // 0.15 / 0.5 = 0.3 stays at min_p 0.25, 0.05 / 0.5 goes.
  EXPECT_EQ(histogram({.logits = logits, .min_p = 0.25f}, draws).size(), 3u);
}

TEST(SampleTest, UniformIsUniform) {
  double sum = 0, square = 0;
  const int n = 100000;
  for (int i = 0; i < n; ++i) {
    const double u = uniform_of(7, static_cast<uint32_t>(i));
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    square += u * u;
  }
  EXPECT_NEAR(sum / n, 0.5, 0.005);
  EXPECT_NEAR(square / n, 1.0 / 3, 0.005);
}

}  // namespace
}  // namespace fathom::ops
