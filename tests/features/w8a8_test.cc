// int8 products: they ran, tasks are solved as without them, matrices made on load are those that a
// checkpoint would hold, and what cannot be is refused.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "fathom/ops/quant/int8_rows.h"
#include "fathom/testing/engine_client.h"
#include "fathom/testing/model_session.h"
#include "nano_copy.h"
#include "nano_tasks.h"

namespace fathom::testing {
namespace {

constexpr auto kMake = weights::Int8Weights::make;
constexpr auto kKeep = weights::Int8Weights::keep;
constexpr auto kDequantise = weights::Int8Weights::dequantise;

const std::function<void(Json&)> kUnquantised = [](Json& config) {
  config.erase("quantization_config");
};

// The matrix that loading makes of as_bf16's, as compressed-tensors stores it; but for kv_b_proj,
// whose products have no int8 form.
void as_int8(const std::string& name, const Fp8Matrix& m, StoredTensors& to) {
  if (name.find("kv_b_proj") != std::string::npos) return as_bf16(name, m, to);
  std::vector<int8_t> codes;
  std::vector<float> scales;
  codes.reserve(static_cast<size_t>(m.N * m.K));
  for (int64_t n = 0; n < m.N; ++n) {
    std::vector<float> row;
    float amax = 0;
    for (int64_t k = 0; k < m.K; ++k) {
      row.push_back(bf16_to_float(float_to_bf16(m.value(n, k))));
      amax = std::max(amax, std::fabs(row.back()));
    }
    const ops::Int8Scale scale = ops::Int8Scale::of(amax);
    for (const float v : row) codes.push_back(scale.code(v));
    scales.push_back(scale.scale);
  }
  to[name] = {"I8", {m.N, m.K}, bytes_of(codes)};
  to[name + "_scale"] = {"F32", {m.N, 1}, bytes_of(scales)};
}

Json compressed_tensors() {
  return Json::parse(R"({"quant_method": "compressed-tensors", "format": "int-quantized",
    "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"],
      "weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": true,
                  "group_size": null, "dynamic": false},
      "input_activations": {"num_bits": 8, "type": "int", "strategy": "token", "symmetric": true,
                            "dynamic": true}}}})");
}

std::vector<std::vector<float>> logits(
    const std::filesystem::path& path, weights::Int8Weights int8, std::vector<int32_t> prompt = {}
) {
  SessionOptions options{.max_sequences = 1};
  options.open.int8 = int8;
  const auto session = ModelSession::open(path.string(), options);
  CHECK(session.ok(), "{}", session.error().message);
  for (int32_t i = 0; prompt.size() < 64; ++i) prompt.push_back(30 + i * 61 % 4000);
  return (*session)->step({{0, prompt, true}});
}

struct Answers {
  std::vector<std::vector<plan::Token>> tokens;
  int64_t hits = 0;
};

Answers answers(const std::filesystem::path& path, const std::string& feature, bool make) {
  engine::Config config = nano_config({feature});
  config.model_path = path.string();
  if (make) config.quantization = "w8a8_int8";
  const auto engine = open_nano(config);
  EngineClient client(*engine);
  for (const plan::Request& request : nano_requests(*engine, 2, 100))
    EXPECT_FALSE(client.submit(request).refused());
  EXPECT_TRUE(client.wait(std::chrono::seconds(300)));
  Answers found{.tokens = {}, .hits = engine->stats().feature_hits.at("w8a8")};
  for (const Answer& answer : client.answers()) found.tokens.push_back(answer.tokens);
  return found;
}

TEST(W8a8Test, TasksAreSolvedAlike) {
  const NanoCopy bf16(as_bf16, kUnquantised);
  const Answers on = answers(bf16.path(), "+w8a8", true);
  const Answers off = answers(bf16.path(), "-w8a8", true);
  EXPECT_EQ(on.tokens, off.tokens);
  EXPECT_GT(on.hits, 0);
  EXPECT_EQ(off.hits, 0);
  EXPECT_EQ(answers(bf16.path(), "+w8a8", false).hits, 0) << "int8 products without being asked";
}

TEST(W8a8Test, ACheckpointHoldsWhatLoadingMakes) {
  const NanoCopy bf16(as_bf16, kUnquantised);
  const NanoCopy int8(as_int8, [](Json& config) {
    config["quantization_config"] = compressed_tensors();
  });
  const auto made = logits(bf16.path(), kMake);
  EXPECT_EQ(logits(int8.path(), kKeep), made);
  EXPECT_NE(logits(bf16.path(), kKeep), made) << "nothing was quantised";
  const NanoCopy sglang(as_int8, [](Json& config) {
    config["quantization_config"] = {{"quant_method", "w8a8_int8"}};
  });
  const Answers on = answers(sglang.path(), "+w8a8", false);
  const Answers off = answers(sglang.path(), "-w8a8", false);
  EXPECT_EQ(on.tokens, off.tokens);
  EXPECT_GT(on.hits, 0);
  EXPECT_EQ(off.hits, 0);
}

// Against the goldens, at the positions and ids that they record.
TEST(W8a8Test, LogitsStayWithinTheBound) {
  std::stringstream text;
  text << std::ifstream("models/nano-deepseek/golden/golden.json").rdbuf();
  const Json goldens = Json::parse(text.str());
  double worst = 0, sum = 0;
  int64_t count = 0;
  SessionOptions options{.max_sequences = 1};
  options.open.int8 = kMake;
  const auto session = ModelSession::open(kNano.string(), options);
  ASSERT_TRUE(session.ok()) << session.error().message;
  for (const Json& prompt : goldens["prompts"]) {
    const auto ids = prompt["token_ids"].get<std::vector<int32_t>>();
    if (ids.size() < 17 || ids.size() > 300) continue;
    const auto rows = (*session)->step({{0, ids, true}});
    (*session)->clear(0);
    for (const Json& at : prompt["positions"]) {
      const std::vector<float>& row = rows.at(at["position"].get<size_t>());
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
  EXPECT_LT(worst, 1.6);
  EXPECT_LT(sum / static_cast<double>(count), 0.09);
  EXPECT_GT(sum / static_cast<double>(count), 0.005) << "nothing was quantised";
}

std::string refusal(const engine::Config& config) {
  const auto engine = engine::Engine::open(config);
  return engine.ok() ? "" : engine.error().message;
}

TEST(W8a8Test, QuantisedCheckpointsAreRefused) {
  engine::Config config = nano_config({});
  config.quantization = "w8a8_int8";
  EXPECT_NE(refusal(config).find("quantised already"), std::string::npos);
  config.features = {"-fp8_block_gemm"};
  EXPECT_EQ(refusal(config), "");
  const NanoCopy int8(as_int8, [](Json& json) {
    json["quantization_config"] = compressed_tensors();
  });
  config = nano_config({});
  config.model_path = int8.path().string();
  config.quantization = "fp8";
  EXPECT_NE(refusal(config).find("quantised already"), std::string::npos);
}

TEST(W8a8Test, OtherFormsOfInt8AreRefused) {
  const NanoCopy per_tensor(as_int8, [](Json& config) {
    config["quantization_config"] = compressed_tensors();
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["strategy"] = "tensor";
  });
  engine::Config config = nano_config({});
  config.model_path = per_tensor.path().string();
  EXPECT_NE(refusal(config).find("quantization_config"), std::string::npos);
}

// A Llama, whose matrices with a bias are quantised too.
TEST(W8a8Test, RandomWeightsAreQuantisedToo) {
  engine::Config config = nano_config({});
  config.model_path = "tests/data/tiny-llama";
  config.load_format = "dummy";
  config.quantization = "w8a8_int8";
  EXPECT_EQ(refusal(config), "");
}

}  // namespace
}  // namespace fathom::testing
