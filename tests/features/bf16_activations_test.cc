// Lossy: with the feature on, products with BF16 weights run on rounded activations where the CPU
// has the instruction; off, never; and the first token's log probability stays within the page's
// bound.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "fathom/base/cpu_features.h"
#include "fathom/testing/engine_client.h"
#include "fathom/testing/tiny_model.h"

namespace fathom::testing {
namespace {

struct Ran {
  double logprob = 0;
  int64_t hits = 0;
};

// The tiny model with random weights in BF16.
std::string bf16_model() {
  namespace fs = std::filesystem;
  const fs::path from = tiny_engine_config().model_path;
  const fs::path to = fs::path(::testing::TempDir()) / "tiny-llama-bf16";
  fs::create_directories(to);
  for (const fs::directory_entry& file : fs::directory_iterator(from))
    fs::copy(file.path(), to / file.path().filename(), fs::copy_options::overwrite_existing);
  std::stringstream config;
  config << std::ifstream(from / "config.json").rdbuf();
  std::string text = config.str();
  text.replace(text.find("float32"), 7, "bfloat16");
  std::ofstream(to / "config.json") << text;
  return to;
}

Ran run_with(const std::string& feature_switch) {
  engine::Config config = tiny_engine_config();
  config.model_path = bf16_model();
  config.features = {feature_switch};
  Result<std::unique_ptr<engine::Engine>> engine = engine::Engine::open(config);
  EXPECT_TRUE(engine.ok());
  plan::Request request;
  for (plan::Token token = 4; token < 60; ++token) request.prompt.push_back(token);
  request.sampling.temperature = 0.0f;
  request.sampling.max_new_tokens = 2;
  request.sampling.logprobs = 1;
  const Answer answer = EngineClient(**engine).ask(request);
  return {
      .logprob = answer.logprobs.at(0).logprob,
      .hits = (*engine)->stats().feature_hits.at("bf16_activations"),
  };
}

TEST(FeatureTest, Bf16ActivationsRoundsWhereItPays) {
  const Ran on = run_with("+bf16_activations"), off = run_with("-bf16_activations");
  EXPECT_EQ(off.hits, 0);
  if (!cpu_has(CpuLevel::avx512_bf16)) {
    EXPECT_EQ(on.hits, 0);
    EXPECT_EQ(on.logprob, off.logprob);
    return;
  }
  EXPECT_GT(on.hits, 0);
  EXPECT_NEAR(on.logprob, off.logprob, 0.05);
}

}  // namespace
}  // namespace fathom::testing
