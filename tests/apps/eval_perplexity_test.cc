// Perplexity through the engine against what transformers' recorded logits say of the same tokens,
// and in windows against the model run by itself, window by window.
#include "apps/eval_perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "fathom/base/mapped_file.h"
#include "fathom/testing/model_session.h"
#include "fathom/weights/safetensors.h"

namespace fathom::apps {
namespace {

using ::testing::HasSubstr;

std::string path_of(const std::string& model) {
  return "tests/model/data/" + model;
}

struct Golden {
  std::vector<plan::Token> tokens;
  std::vector<float> logits;  // [T, V]
};

Golden read_golden(const std::string& model, const std::string& number) {
  Result<MappedFile> file = MappedFile::open(path_of(model) + "/golden.safetensors");
  CHECK(file.ok(), "{}", file.error().message);
  const auto entries = weights::parse_safetensors(file->bytes(), file->path());
  CHECK(entries.ok(), "{}", entries.error().message);
  Golden golden;
  const auto read = [&](const std::string& name, auto& values) {
    const weights::WeightEntry& entry = entries->at(name + number);
    values.resize(entry.bytes / 4);
    std::memcpy(values.data(), file->bytes().data() + entry.offset, entry.bytes);
  };
  read("prompt_", golden.tokens);
  read("logits_", golden.logits);
  return golden;
}

double nll_of(const float* logits, size_t vocab, plan::Token token) {
  double sum = 0;
  for (size_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(logits[v]));
  return std::log(sum) - static_cast<double>(logits[token]);
}

std::unique_ptr<engine::Engine> open(const std::string& model, engine::Config config = {}) {
  config.model_path = path_of(model);
  config.tokenizer_path = "tests/data/tiny-llama";  // ids alone are asked
  config.device = "cpu";
  config.threads = 1;
  config.max_total_tokens = 4096;
  config.max_running_requests = 4;
  config.chunked_prefill_size = 64;
  config.features.emplace_back("-bf16_activations");
  auto engine = engine::Engine::open(config);
  CHECK(engine.ok(), "{}", engine.error().message);
  return std::move(*engine);
}

struct Case {
  const char* model;
  double bound;  // of the mean: what the cache keeps in f16 moves it, a latent is kept whole
};
class PerplexityTest : public ::testing::TestWithParam<Case> {};

TEST_P(PerplexityTest, IsWhatTransformersLogitsSay) {
  const auto engine = open(GetParam().model);
  for (const char* number : {"0", "1", "2"}) {
    const Golden golden = read_golden(GetParam().model, number);
    const size_t n = golden.tokens.size(), vocab = golden.logits.size() / n;
    if (n < 2) continue;
    double wanted = 0;
    for (size_t i = 1; i < n; ++i)
      wanted += nll_of(golden.logits.data() + (i - 1) * vocab, vocab, golden.tokens[i]);
    const int size = static_cast<int>(n);
    const Result<Perplexity> got = perplexity(*engine, golden.tokens, {size, size / 2}, 1);
    ASSERT_TRUE(got.ok()) << got.error().message;
    EXPECT_EQ(got->tokens, size - 1);
    EXPECT_EQ(got->windows, 1);
    EXPECT_NEAR(got->mean_nll(), wanted / (size - 1), GetParam().bound);
    EXPECT_EQ(got->value(), std::exp(got->mean_nll()));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models,
    PerplexityTest,
    ::testing::Values(
        Case{"llama3_f32", 1e-3},
        Case{"qwen3_f32", 1e-3},
        Case{"deepseek_v2_lite", 5e-5},
        Case{"deepseek_v3", 5e-5}
    ),
    [](const auto& test) { return std::string(test.param.model); }
);

// The tokens of all goldens, one after the other.
std::vector<plan::Token> long_text() {
  std::vector<plan::Token> text;
  while (text.size() < 400) {
    for (const char* number : {"0", "1", "2"}) {
      const Golden golden = read_golden("deepseek_v3", number);
      text.insert(text.end(), golden.tokens.begin(), golden.tokens.end());
    }
  }
  return text;
}

TEST(Perplexity, EveryTokenCountsOnceWithItsWindowBeforeIt) {
  const std::vector<plan::Token> text = long_text();
  const auto session = testing::ModelSession::open(path_of("deepseek_v3"), {});
  ASSERT_TRUE(session.ok()) << session.error().message;
  const auto engine = open("deepseek_v3");
  for (const Windows windows : {Windows{100, 37}, Windows{64, 63}, Windows{200, 190}}) {
    SCOPED_TRACE(windows.stride);
    double wanted = 0;
    size_t counted = 0, n = 1;
    for (size_t begin = 0, next = 1; next < text.size(); ++n) {
      const size_t end = std::min(begin + static_cast<size_t>(windows.size), text.size());
      const std::vector<int32_t> window(text.data() + begin, text.data() + end);
      const auto logits = (*session)->step({{0, window, true}});
      (*session)->clear(0);
      for (; next < end; ++next, ++counted) {
        const std::vector<float>& row = logits[next - 1 - begin];
        wanted += nll_of(row.data(), row.size(), text[next]);
      }
      begin += static_cast<size_t>(windows.stride);
    }
    const Result<Perplexity> got = perplexity(*engine, text, windows, 3);
    ASSERT_TRUE(got.ok()) << got.error().message;
    EXPECT_EQ(got->tokens, static_cast<int64_t>(text.size()) - 1);
    EXPECT_EQ(got->tokens, static_cast<int64_t>(counted));
    EXPECT_EQ(got->windows, static_cast<int64_t>(n) - 1);
    EXPECT_NEAR(got->mean_nll(), wanted / static_cast<double>(counted), 1e-5);
  }
}

TEST(Perplexity, IsTheSameToTheBitHoweverItIsRun) {
  const std::vector<plan::Token> text = long_text();
  const Result<Perplexity> alone = perplexity(*open("deepseek_v3"), text, {100, 50}, 1);
  ASSERT_TRUE(alone.ok());
  for (const char* feature :
       {"+mixed_step", "-chunked_prefill", "-overlap_schedule", "-mla_absorb"}) {
    engine::Config config;
    config.features = {feature};
    config.page_size = 8;
    const Result<Perplexity> got = perplexity(*open("deepseek_v3", config), text, {100, 50}, 4);
    ASSERT_TRUE(got.ok()) << feature;
    if (feature == std::string_view("-mla_absorb"))
      EXPECT_NEAR(got->nll, alone->nll, 1e-3);
    else
      EXPECT_EQ(got->nll, alone->nll) << feature;
  }
}

TEST(Perplexity, RefusesWithReasons) {
  const auto engine = open("deepseek_v3");
  const std::vector<plan::Token> text = long_text();
  const auto message = [&](size_t n, Windows windows) {
    const auto got = perplexity(*engine, std::span(text).first(n), windows, 2);
    return got.ok() ? std::string() : got.error().message;
  };
  EXPECT_THAT(message(1, {10, 5}), HasSubstr("at least two"));
  EXPECT_THAT(message(100, {10, 10}), HasSubstr("1 .. 9"));
  EXPECT_THAT(message(100, {10, 0}), HasSubstr("1 .. 9"));
  engine::Config small;
  small.context_length = 64;
  const auto short_one = open("deepseek_v3", small);
  const auto got = perplexity(*short_one, text, {100, 50}, 2);
  ASSERT_FALSE(got.ok());
  EXPECT_THAT(got.error().message, HasSubstr("context is 64"));
}

}  // namespace
}  // namespace fathom::apps
