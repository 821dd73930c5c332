// Prompts of 3000 tokens through the tiny DeepSeek checkpoints, with YaRN and without, against
// transformers in fp32 (scripts/make_long_goldens.py): every form of latent attention, thresholds
// that put all, some or no cached prefix into the expanded form, pages of 1, 16 and 64.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>

#include "fathom/base/mapped_file.h"
#include "fathom/testing/model_session.h"
#include "fathom/weights/safetensors.h"

namespace fathom::testing {
namespace {

constexpr double kLogitBound = 1e-4;
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

struct Golden {
  std::vector<int32_t> prompt, positions, greedy;
  std::vector<float> logits;  // [positions, V]
};

Golden read_golden(const std::string& directory) {
  Result<MappedFile> file = MappedFile::open(directory + "/long.safetensors");
  CHECK(file.ok(), "{}", file.error().message);
  const auto entries = weights::parse_safetensors(file->bytes(), file->path());
  CHECK(entries.ok(), "{}", entries.error().message);
  const auto take = [&]<class T>(const char* name, std::vector<T>& to) {
    const weights::WeightEntry& entry = entries->at(name);
    to.resize(entry.bytes / sizeof(T));
    std::memcpy(to.data(), file->bytes().data() + entry.offset, entry.bytes);
  };
  Golden golden;
  take("prompt", golden.prompt);
  take("positions", golden.positions);
  take("greedy", golden.greedy);
  take("logits", golden.logits);
  return golden;
}

struct Form {
  std::string name;
  layers::MlaForms forms;
  int64_t page_size;
};
const Form kForms[] = {
    {"absorbed", {}, 16},
    {"expanded", {.absorbed_decode = false}, 1},
    {"threshold_0", {.expanded_prompts = true, .threshold = 0}, 64},
    {"threshold_1000", {.expanded_prompts = true, .threshold = 1000}, 1},
    {"threshold_8192", {.expanded_prompts = true, .threshold = 8192}, 16},
    {"threshold_infinite", {.expanded_prompts = true, .threshold = kNever}, 64},
};

class LongPrompt : public ::testing::TestWithParam<std::tuple<std::string, size_t>> {
 protected:
  std::string directory_ = "tests/model/data/" + std::get<0>(GetParam());
  const Form& form_ = kForms[std::get<1>(GetParam())];
  Golden golden_ = read_golden(directory_);

  std::unique_ptr<ModelSession> open() const {
    SessionOptions options{
        .threads = 2,
        .page_size = form_.page_size,
        .max_sequences = 2,
        .max_sequence_tokens = 3072};
    options.open.model.max_positions = 3072;
    options.open.model.mla = form_.forms;
    auto session = ModelSession::open(directory_, options);
    CHECK(session.ok(), "{}", session.error().message);
    return std::move(*session);
  }

  // The largest difference of a chunk's logits from what is recorded of its positions.
  double worst(const std::vector<std::vector<float>>& logits, size_t begin) const {
    double worst = 0;
    for (size_t i = 0; i < golden_.positions.size(); ++i) {
      const auto at = static_cast<size_t>(golden_.positions[i]);
      if (at < begin || at >= begin + logits.size()) continue;
      const std::vector<float>& row = logits[at - begin];
      for (size_t v = 0; v < row.size(); ++v) {
        const double wanted = golden_.logits.at(i * row.size() + v);
        worst = std::max(worst, std::fabs(static_cast<double>(row[v]) - wanted));
      }
    }
    return worst;
  }
};

TEST_P(LongPrompt, LogitsAndGreedyTokensInEveryForm) {
  ASSERT_EQ(golden_.prompt.size(), 3000u);
  const auto session = open();
  for (size_t at = 0; at < golden_.prompt.size(); at += 512) {
    const size_t end = std::min(at + 512, golden_.prompt.size());
    const std::vector<int32_t> chunk(
        golden_.prompt.begin() + static_cast<std::ptrdiff_t>(at),
        golden_.prompt.begin() + static_cast<std::ptrdiff_t>(end)
    );
    EXPECT_LT(worst(session->step({{0, chunk, true}}), at), kLogitBound) << "from " << at;
  }
  const auto tokens = static_cast<int64_t>(golden_.greedy.size());
  EXPECT_EQ(session->greedy(1, golden_.prompt, tokens, 512), golden_.greedy);
}

INSTANTIATE_TEST_SUITE_P(
    All,
    LongPrompt,
    ::testing::Combine(
        ::testing::Values("deepseek_v2_lite", "deepseek_v2", "deepseek_v3"),
        ::testing::Range(size_t{0}, std::size(kForms))
    ),
    [](const auto& instance) {
      return std::get<0>(instance.param) + "_" + kForms[std::get<1>(instance.param)].name;
    }
);

}  // namespace
}  // namespace fathom::testing
