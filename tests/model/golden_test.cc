// Tiny checkpoints of every family against what transformers computes from the same weights
// (scripts/make_tiny_model.py), with every page size, in chunks, in batches and on two threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fathom/base/mapped_file.h"
#include "fathom/testing/model_session.h"
#include "fathom/weights/safetensors.h"

namespace fathom::testing {
namespace {

constexpr double kLogitBound = 1e-4;
constexpr int kPrompts = 3;
const std::string kData = "tests/model/data/";

struct Golden {
  std::vector<int32_t> prompt;
  std::vector<float> logits;  // [T, V]
  std::vector<int32_t> greedy;
};

template <class T>
std::vector<T> values_of(const MappedFile& file, const weights::WeightEntry& entry) {
  std::vector<T> values(entry.bytes / sizeof(T));
  std::memcpy(values.data(), file.bytes().data() + entry.offset, entry.bytes);
  return values;
}

std::vector<Golden> read_goldens(const std::string& name) {
  Result<MappedFile> file = MappedFile::open(kData + name + "/golden.safetensors");
  CHECK(file.ok(), "{}", file.error().message);
  const auto entries = weights::parse_safetensors(file->bytes(), file->path());
  CHECK(entries.ok(), "{}", entries.error().message);
  std::vector<Golden> goldens;
  for (int i = 0; i < kPrompts; ++i) {
    const auto number = std::to_string(i);
    goldens.push_back({
        values_of<int32_t>(*file, entries->at("prompt_" + number)),
        values_of<float>(*file, entries->at("logits_" + number)),
        values_of<int32_t>(*file, entries->at("greedy_" + number)),
    });
  }
  return goldens;
}

std::unique_ptr<ModelSession> open(const std::string& path, const SessionOptions& options) {
  auto session = ModelSession::open(kData + path, options);
  CHECK(session.ok(), "{}", session.error().message);
  return std::move(*session);
}

double worst_difference(
    const std::vector<std::vector<float>>& got, const std::vector<float>& wanted
) {
  double worst = 0;
  size_t at = 0;
  for (const std::vector<float>& row : got) {
    for (const float value : row) {
      worst = std::max(worst, std::fabs(static_cast<double>(value) - wanted.at(at++)));
    }
  }
  CHECK(at == wanted.size(), "{} logits against {}", at, wanted.size());
  return worst;
}

struct Checkpoint {
  std::string directory;
  std::string path;  // of what is opened
};

class GoldenTest : public ::testing::TestWithParam<Checkpoint> {
 protected:
  std::vector<Golden> goldens_ = read_goldens(GetParam().directory);
};

TEST_P(GoldenTest, LogitsOfEveryPosition) {
  const auto session = open(GetParam().path, {});
  for (int i = 0; i < kPrompts; ++i) {
    const Golden& golden = goldens_[static_cast<size_t>(i)];
    const auto logits = session->step({{i, golden.prompt, true}});
    EXPECT_LT(worst_difference(logits, golden.logits), kLogitBound) << "prompt " << i;
  }
}

TEST_P(GoldenTest, LogitsOfAllPromptsInOneBatch) {
  const auto session = open(GetParam().path, {.threads = 2});
  std::vector<Feed> feeds;
  std::vector<float> wanted;
  for (int i = 0; i < kPrompts; ++i) {
    const Golden& golden = goldens_[static_cast<size_t>(i)];
    feeds.push_back({i, golden.prompt, true});
    wanted.insert(wanted.end(), golden.logits.begin(), golden.logits.end());
  }
  EXPECT_LT(worst_difference(session->step(feeds), wanted), kLogitBound);
}

TEST_P(GoldenTest, GreedyTokensWithEveryPageSizeAndChunk) {
  struct Cut {
    int64_t page_size, chunk;
  };
  for (const Cut& cut : {Cut{1, 16}, Cut{16, 512}, Cut{16, 7}, Cut{64, 33}}) {
    const auto session = open(GetParam().path, {.page_size = cut.page_size});
    for (const Golden& golden : goldens_) {
      EXPECT_EQ(session->greedy(0, golden.prompt, 64, cut.chunk), golden.greedy)
          << "pages of " << cut.page_size << ", chunks of " << cut.chunk;
      session->clear(0);
    }
  }
}

// Decode rows and a chunk in one step, on two threads, against each sequence alone.
TEST_P(GoldenTest, BitsDependOnTheSequenceAlone) {
  const std::vector<int32_t>& prompt = goldens_[2].prompt;
  const std::vector<int32_t> head(prompt.begin(), prompt.begin() + 40);
  const std::vector<int32_t> tail(prompt.begin() + 40, prompt.end());
  const auto alone = open(GetParam().path, {.page_size = 64});
  const auto whole = alone->step({{0, prompt}}).front();
  const auto first = alone->step({{1, goldens_[0].prompt}, {2, goldens_[1].prompt}});
  const auto next = alone->step({{1, {3}}}).front();

  const auto mixed = open(GetParam().path, {.threads = 2, .page_size = 1});
  mixed->step({{1, goldens_[0].prompt}, {0, head}});
  const auto both = mixed->step({{1, {3}}, {0, tail}, {2, goldens_[1].prompt}});
  EXPECT_EQ(both[0], next);
  EXPECT_EQ(both[1], whole);
  EXPECT_EQ(both[2], first[1]);
}

INSTANTIATE_TEST_SUITE_P(
    All,
    GoldenTest,
    ::testing::Values(
        Checkpoint{"deepseek_v2_lite", "deepseek_v2_lite"},
        Checkpoint{"deepseek_v2", "deepseek_v2"},
        Checkpoint{"deepseek_v3", "deepseek_v3"},
        Checkpoint{"llama_bf16", "llama_bf16"},
        Checkpoint{"llama3_f32", "llama3_f32"},
        Checkpoint{"llama3_f32", "llama3_f32/model.gguf"},
        Checkpoint{"llama_bias_f16", "llama_bias_f16"},
        Checkpoint{"smollm2_bf16_tied", "smollm2_bf16_tied"},
        Checkpoint{"smollm2_bf16_tied", "smollm2_bf16_tied/model.gguf"},
        Checkpoint{"qwen2_bf16_sharded", "qwen2_bf16_sharded"},
        Checkpoint{"qwen3_f32", "qwen3_f32"}
    ),
    [](const auto& instance) {
      return instance.param.directory + (instance.param.path.ends_with("gguf") ? "_gguf" : "");
    }
);

}  // namespace
}  // namespace fathom::testing
