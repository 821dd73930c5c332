// nano-deepseek, a trained FP8 checkpoint of the V3 architecture, against logits of transformers in
// fp32 (models/nano-deepseek/README.md): weights dequantised, activations not quantised.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <sstream>

#include "fathom/base/json.h"
#include "fathom/testing/model_session.h"

namespace fathom::testing {
namespace {

constexpr double kLogitBound = 2e-3;
constexpr double kNormBound = 1e-3;  // relative
const std::string kModel = "models/nano-deepseek";

using Rows = std::vector<std::vector<float>>;

const Json& goldens() {
  static const Json json = [] {
    const std::string path = kModel + "/golden/golden.json";
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    Result<Json> parsed = parse_json(text.str(), path);
    CHECK(parsed.ok(), "{}", parsed.error().message);
    return *parsed;
  }();
  return json;
}

SessionOptions exact() {
  SessionOptions options{
      .threads = 2, .max_sequences = 2, .max_sequence_tokens = 1800, .max_step_tokens = 1800};
  options.open.fp8 = weights::Fp8Weights::dequantise;
  options.open.model.nextn = true;
  return options;
}

std::unique_ptr<ModelSession> open(const SessionOptions& options) {
  auto session = ModelSession::open(kModel, options);
  CHECK(session.ok(), "{}", session.error().message);
  return std::move(*session);
}

// The largest difference at the recorded positions, over their recorded ids.
double worst(const Json& recorded, const Rows& logits) {
  double worst = 0;
  for (const Json& at : recorded) {
    const std::vector<float>& row = logits.at(at["position"].get<size_t>());
    for (size_t i = 0; i < at["ids"].size(); ++i) {
      const double got = row.at(at["ids"][i].get<size_t>());
      worst = std::max(worst, std::fabs(got - at["values"][i].get<double>()));
    }
  }
  return worst;
}

double norm(const Tensor& t, int64_t row) {
  double sum = 0;
  for (int64_t i = 0; i < t.dim(1); ++i) {
    const double v = t.row(row).as<float>()[i];
    sum += v * v;
  }
  return std::sqrt(sum);
}

class DeepseekGolden : public ::testing::TestWithParam<size_t> {};

TEST_P(DeepseekGolden, LogitsGreedyTokensAndMtp) {
  const Json& prompt = goldens()["prompts"][GetParam()];
  const auto tokens = prompt["token_ids"].get<std::vector<int32_t>>();
  Rows hidden;
  SessionOptions options = exact();
  options.probe = [&](std::string_view name, const Tensor& t) {
    if (name != "hidden") return;
    hidden.clear();
    for (int64_t i = 0; i < t.dim(0); ++i)
      hidden.emplace_back(t.row(i).as<float>(), t.row(i).as<float>() + t.dim(1));
  };
  const auto session = open(options);
  const Rows logits = session->step({{0, tokens, true}});
  EXPECT_LT(worst(prompt["positions"], logits), kLogitBound);

  std::vector<int32_t> next(tokens.begin() + 1, tokens.end());
  for (const Json& at : prompt["mtp"]) {
    if (at["position"].get<size_t>() == next.size())
      next.push_back(at["next_token"].get<int32_t>());
  }
  hidden.resize(next.size());
  const Rows drafted = next.empty() ? Rows{} : session->draft(next, hidden);
  EXPECT_LT(worst(prompt["mtp"], drafted), kLogitBound);

  EXPECT_EQ(session->greedy(1, tokens, 64, 512), prompt["greedy_64"].get<std::vector<int32_t>>());
}

INSTANTIATE_TEST_SUITE_P(Prompts, DeepseekGolden, ::testing::Range(size_t{0}, size_t{8}));

TEST(DeepseekInternals, NormsAfterEveryLayerAndRouterOfOne) {
  const Json& internals = goldens()["internals"];
  const Json& prompt = goldens()["prompts"][internals["prompt"].get<size_t>()];
  const size_t router_layer = internals["router_layer"].get<size_t>();
  size_t layer = 0, routed = 1;  // layer 0 is dense
  double worst_norm = 0, worst_weight = 0;
  bool same_ids = true;
  const auto compare_norms = [&](const Json& wanted, const Tensor& t) {
    ASSERT_EQ(wanted.size(), static_cast<size_t>(t.dim(0)));
    for (size_t i = 0; i < wanted.size(); ++i) {
      const double w = wanted[i].get<double>();
      worst_norm = std::max(worst_norm, std::fabs(norm(t, static_cast<int64_t>(i)) - w) / w);
    }
  };
  SessionOptions options = exact();
  options.probe = [&](std::string_view name, const Tensor& t) {
    if (name == "layer.input" || name == "hidden")
      compare_norms(internals["hidden_norms"][layer++], t);
    if (name == "moe.weights") ++routed;
    if (routed != router_layer + (name == "moe.weights" ? 1 : 0)) return;
    for (int64_t i = 0; i < t.dim(0) && name.starts_with("moe."); ++i) {
      const auto row = static_cast<size_t>(i);
      if (name == "moe.ids") {
        const int32_t* ids = t.row(i).as<int32_t>();
        same_ids &= std::vector<int32_t>(ids, ids + t.dim(1)) ==
                    internals["router_ids"][row].get<std::vector<int32_t>>();
      } else {
        for (int64_t s = 0; s < t.dim(1); ++s) {
          const double wanted =
              internals["router_weights"][row][static_cast<size_t>(s)].get<double>();
          worst_weight = std::max(worst_weight, std::fabs(t.row(i).as<float>()[s] - wanted));
        }
      }
    }
  };
  open(options)->step({{0, prompt["token_ids"].get<std::vector<int32_t>>(), true}});
  EXPECT_EQ(layer, internals["hidden_norms"].size());
  EXPECT_LT(worst_norm, kNormBound);
  EXPECT_TRUE(same_ids);
  EXPECT_LT(worst_weight, 1e-4);
}

}  // namespace
}  // namespace fathom::testing
