// nano-deepseek in the other forms that FP8 comes in, written anew from its own tensors: as BF16,
// which --quantization fp8 turns into the same blocks on load, to the bit; and with scales that are
// powers of two (UE8M0).
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "fathom/base/json.h"
#include "fathom/ops/quant/fp8_blocks.h"
#include "fathom/testing/engine_client.h"
#include "fathom/testing/model_session.h"
#include "nano_copy.h"
#include "nano_tasks.h"

namespace fathom::testing {
namespace {

namespace fs = std::filesystem;

void as_coarse_fp8(const std::string& name, const Fp8Matrix& m, StoredTensors& to) {
  std::vector<float> scales(m.blocks());
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = coarse(m.scales[i]);
  to[name] = {
      "F8_E4M3",
      {m.N, m.K},
      {reinterpret_cast<const char*>(m.codes), static_cast<size_t>(m.N * m.K)}};
  to[name + "_scale_inv"] = {"F32", {ops::fp8_blocks(m.N), ops::fp8_blocks(m.K)}, bytes_of(scales)};
}

// The next power of two for each scale, and codes to match.
void as_ue8m0(const std::string& name, const Fp8Matrix& m, StoredTensors& to) {
  std::vector<float> scales(m.blocks());
  for (size_t i = 0; i < scales.size(); ++i)
    scales[i] = std::exp2(std::ceil(std::log2(m.scales[i])));
  std::vector<uint8_t> codes;
  codes.reserve(static_cast<size_t>(m.N * m.K));
  for (int64_t n = 0; n < m.N; ++n) {
    for (int64_t k = 0; k < m.K; ++k)
      codes.push_back(float_to_f8e4m3(m.value(n, k) / scales[m.block(n, k)]));
  }
  to[name] = {"F8_E4M3", {m.N, m.K}, bytes_of(codes)};
  to[name + "_scale_inv"] = {"F32", {ops::fp8_blocks(m.N), ops::fp8_blocks(m.K)}, bytes_of(scales)};
}

std::vector<std::vector<plan::Token>> answers(const engine::Config& config, int64_t& fp8_products) {
  const auto engine = open_nano(config);
  EngineClient client(*engine);
  for (const plan::Request& request : nano_requests(*engine, 3, 80))
    EXPECT_FALSE(client.submit(request).refused());
  EXPECT_TRUE(client.wait(std::chrono::seconds(300)));
  std::vector<std::vector<plan::Token>> tokens;
  for (const Answer& answer : client.answers()) tokens.push_back(answer.tokens);
  fp8_products = engine->stats().feature_hits.at("fp8_block_gemm");
  return tokens;
}

std::vector<std::vector<float>> logits(const fs::path& path, weights::Fp8Weights fp8) {
  SessionOptions options{.max_sequences = 1};
  options.open.fp8 = fp8;
  const auto session = ModelSession::open(path.string(), options);
  CHECK(session.ok(), "{}", session.error().message);
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 64; ++i) prompt.push_back(30 + i * 61 % 4000);
  return (*session)->step({{0, prompt, true}});
}

// Mean of what two sets of logits differ by.
double difference(
    const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b
) {
  double sum = 0;
  size_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t v = 0; v < a[i].size(); ++v, ++count)
      sum += std::fabs(static_cast<double>(a[i][v]) - static_cast<double>(b[i][v]));
  }
  return sum / static_cast<double>(count);
}

TEST(Fp8Checkpoints, Bf16IsMadeIntoTheSameBlocksOnLoad) {
  const NanoCopy fp8(as_coarse_fp8, [](Json&) {});
  const NanoCopy bf16(as_coarse_bf16, [](Json& config) { config.erase("quantization_config"); });
  const auto wanted = logits(fp8.path(), weights::Fp8Weights::keep);
  EXPECT_EQ(logits(bf16.path(), weights::Fp8Weights::make), wanted);
  EXPECT_GT(difference(logits(bf16.path(), weights::Fp8Weights::keep), wanted), 0.01)
      << "nothing was quantised";

  int64_t hits = 0, plain_hits = 0, ignored = 0;
  engine::Config config = nano_config({"+fp8_block_gemm"});
  config.model_path = bf16.path().string();
  answers(config, plain_hits);
  config.quantization = "fp8";
  const auto made = answers(config, hits);
  config.model_path = fp8.path().string();
  config.quantization.clear();
  EXPECT_EQ(made, answers(config, ignored));
  EXPECT_GT(hits, 0);
  EXPECT_EQ(plain_hits, 0) << "a BF16 checkpoint has FP8 products without being asked";
}

TEST(Fp8Checkpoints, ScalesMayBePowersOfTwo) {
  const NanoCopy copy(as_ue8m0, [](Json& config) {
    config["quantization_config"]["scale_fmt"] = "ue8m0";
  });
  int64_t wanted_hits = 0, hits = 0;
  engine::Config config = nano_config({"+fp8_block_gemm"});
  const auto wanted = answers(config, wanted_hits);
  config.model_path = copy.path().string();
  EXPECT_EQ(answers(config, hits), wanted);
  EXPECT_GT(hits, 0);
  const double found = difference(
      logits(copy.path(), weights::Fp8Weights::keep), logits(kNano, weights::Fp8Weights::keep)
  );
  EXPECT_GT(found, 0.0);
  EXPECT_LT(found, 0.5);
}

}  // namespace
}  // namespace fathom::testing
