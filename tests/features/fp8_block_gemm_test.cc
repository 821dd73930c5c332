// FP8 products: they ran, tasks are solved as without them, and nothing else about a request
// changes.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "fathom/base/json.h"
#include "fathom/testing/engine_client.h"
#include "fathom/testing/model_session.h"
#include "nano_tasks.h"

namespace fathom::testing {
namespace {

std::vector<std::vector<plan::Token>> tokens(
    engine::Engine& engine, const std::vector<plan::Request>& requests
) {
  EngineClient client(engine);
  for (const plan::Request& request : requests) EXPECT_FALSE(client.submit(request).refused());
  EXPECT_TRUE(client.wait(std::chrono::seconds(300)));
  std::vector<std::vector<plan::Token>> all;
  for (const Answer& answer : client.answers()) all.push_back(answer.tokens);
  return all;
}

TEST(Fp8BlockGemmTest, TasksAreSolvedAlike) {
  const auto on = open_nano(nano_config({"+fp8_block_gemm"}));
  const auto off = open_nano(nano_config({"-fp8_block_gemm"}));
  const std::vector<plan::Request> requests = nano_requests(*on, 2, 100);
  EXPECT_EQ(tokens(*on, requests), tokens(*off, requests));
  EXPECT_GT(on->stats().feature_hits.at("fp8_block_gemm"), 0);
  EXPECT_EQ(off->stats().feature_hits.at("fp8_block_gemm"), 0);
}

// Against the goldens, at the positions and ids that they record.
TEST(Fp8BlockGemmTest, LogitsStayWithinTheBound) {
  std::stringstream text;
  text << std::ifstream("models/nano-deepseek/golden/golden.json").rdbuf();
  const Result<Json> goldens = parse_json(text.str(), "golden.json");
  ASSERT_TRUE(goldens.ok());
  SessionOptions options{.max_sequences = 1};
  options.open.fp8 = weights::Fp8Weights::keep;
  const auto session = ModelSession::open("models/nano-deepseek", options);
  ASSERT_TRUE(session.ok()) << session.error().message;
  double worst = 0, sum = 0;
  int64_t count = 0;
  for (const Json& prompt : (*goldens)["prompts"]) {
    const auto ids = prompt["token_ids"].get<std::vector<int32_t>>();
    if (ids.size() < 17 || ids.size() > 300) continue;
    const auto logits = (*session)->step({{0, ids, true}});
    (*session)->clear(0);
    for (const Json& at : prompt["positions"]) {
      const std::vector<float>& row = logits.at(at["position"].get<size_t>());
      for (size_t i = 0; i < at["ids"].size(); ++i) {
        const double error = std::fabs(
            static_cast<double>(row.at(at["ids"][i].get<size_t>())) - at["values"][i].get<double>()
        );
        worst = std::max(worst, error);
        sum += error;
        ++count;
      }
    }
  }
  EXPECT_LT(worst, 1.2);
  EXPECT_LT(sum / static_cast<double>(count), 0.12);
  EXPECT_GT(sum / static_cast<double>(count), 0.01) << "nothing was quantised";
}

TEST(Fp8BlockGemmTest, MadeOnLoadOrRefused) {
  engine::Config config = nano_config({});
  config.quantization = "fp8";
  auto engine = engine::Engine::open(config);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().message.find("quantised already"), std::string::npos);
  config.model_path = "tests/data/tiny-llama";
  config.load_format = "dummy";
  engine = engine::Engine::open(config);
  ASSERT_TRUE(engine.ok()) << engine.error().message;
}

}  // namespace
}  // namespace fathom::testing
