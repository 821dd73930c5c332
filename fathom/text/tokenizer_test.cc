#include "fathom/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <thread>

#include "fathom/base/json.h"
#include "fathom/text/detokenizer.h"

namespace fathom::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string fixture(const std::string& name) {
  return read_file("tests/text/data/tokenizers/" + name + ".json");
}

std::unique_ptr<Tokenizer> load(const std::string& name, std::string_view config = {}) {
  auto tokenizer = Tokenizer::from_hf_json(fixture(name), config);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  return std::move(*tokenizer);
}

std::string failure_of(const std::string& json) {
  auto tokenizer = Tokenizer::from_hf_json(json);
  return tokenizer.ok() ? "" : tokenizer.error().message;
}

// Ids and texts that the `tokenizers` package gives (scripts/make_tokenizer_fixtures.py).
class Families : public ::testing::TestWithParam<const char*> {};

TEST_P(Families, EqualThePackage) {
  const auto tokenizer = load(GetParam());
  const Json cases = *parse_json(fixture(std::string(GetParam()) + ".cases"), "cases");
  ASSERT_GT(cases.size(), 20u);
  for (const Json& one : cases) {
    const std::string text = one[0].get<std::string>();
    const auto ids = tokenizer->encode(text);
    EXPECT_EQ(ids, one[1].get<std::vector<Token>>()) << text;
    EXPECT_EQ(
        tokenizer->encode(text, {.parse_special_tokens = false}), one[2].get<std::vector<Token>>()
    ) << text;
    EXPECT_EQ(tokenizer->decode(ids), one[3].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(
    All,
    Families,
    ::testing::Values(
        "gpt2", "smollm2", "llama3", "qwen2", "deepseek_v3", "o200k", "llama2", "mistral", "odd"
    ),
    [](const auto& test) { return std::string(test.param); }
);

// The vocabulary of a fixture as a GGUF file holds it.
GgufVocabulary gguf_of(const std::string& name, const std::string& pre) {
  const Json root = *parse_json(fixture(name), name);
  GgufVocabulary vocabulary{.model = "gpt2", .pre = pre};
  for (const auto& [token, id] : root["model"]["vocab"].items()) {
    const size_t at = id.get<size_t>();
    if (vocabulary.tokens.size() <= at) vocabulary.tokens.resize(at + 1);
    vocabulary.tokens[at] = token;
  }
  for (const Json& token : root["added_tokens"]) {
    const size_t at = token["id"].get<size_t>();
    if (vocabulary.tokens.size() <= at) vocabulary.tokens.resize(at + 1);
    vocabulary.tokens[at] = token["content"].get<std::string>();
    vocabulary.token_types.resize(vocabulary.tokens.size(), GgufTokenType::normal);
    if (token["special"].get<bool>()) vocabulary.token_types[at] = GgufTokenType::control;
  }
  vocabulary.token_types.resize(vocabulary.tokens.size(), GgufTokenType::normal);
  for (const Json& merge : root["model"]["merges"]) {
    vocabulary.merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  return vocabulary;
}

TEST(Tokenizer, GgufGivesTheIdsOfTheSameJson) {
  for (const auto& [name, pre] :
       {std::pair{"smollm2", "smollm"},
        {"qwen2", "qwen2"},
        {"deepseek_v3", "deepseek-v3"},
        {"o200k", "gpt-4o"},
        {"llama3", "llama-bpe"}}) {
    auto gguf = Tokenizer::from_gguf_vocabulary(gguf_of(name, pre));
    ASSERT_TRUE(gguf.ok()) << gguf.error().message;
    const auto json = load(name);
    const Json cases = *parse_json(fixture(std::string(name) + ".cases"), "cases");
    for (const Json& one : cases) {
      const std::string text = one[0].get<std::string>();
      // The fixtures' other added tokens have rules that GGUF cannot express.
      if (text.find("<mask>") != text.npos || text.find("<w>") != text.npos ||
          text.find("<tool>") != text.npos) {
        continue;
      }
      EXPECT_EQ((*gguf)->encode(text), json->encode(text, {.add_special_tokens = false})) << text;
    }
  }
}

TEST(Tokenizer, GgufLlamaMergesByScore) {
  GgufVocabulary vocabulary{
      .model = "llama",
      .tokens = {"<unk>", "<s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "c", "ab", "bc", "▁a", "abc"},
      .token_types = {},
      .scores = {0, 0, 0, 0, -9, -9, -9, -9, -2, -1, -5, -3},
  };
  vocabulary.token_types.assign(vocabulary.tokens.size(), GgufTokenType::normal);
  vocabulary.token_types[0] = GgufTokenType::unknown;
  vocabulary.token_types[1] = GgufTokenType::control;
  vocabulary.bos_id = 1;
  vocabulary.unknown_id = 0;
  vocabulary.add_bos = true;
  auto tokenizer = Tokenizer::from_gguf_vocabulary(vocabulary);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  // "bc" comes first, then "a" + "bc"; "é" falls back to bytes; "?" is unknown.
  EXPECT_THAT((*tokenizer)->encode("abc"), ElementsAre(1, 4, 11));
  EXPECT_THAT((*tokenizer)->encode("aé?"), ElementsAre(1, 10, 2, 3, 0));
  EXPECT_EQ((*tokenizer)->decode((*tokenizer)->encode("abc ab")), "abc ab");
}

TEST(Tokenizer, GgufErrorsNameTheThing) {
  GgufVocabulary vocabulary = gguf_of("gpt2", "no-such-split");
  EXPECT_THAT(
      Tokenizer::from_gguf_vocabulary(vocabulary).error().message,
      ::testing::AllOf(HasSubstr("no-such-split"), HasSubstr("llama-bpe"))
  );
  vocabulary.pre = "gpt-2";
  vocabulary.merges.push_back("q zzz");
  EXPECT_THAT(Tokenizer::from_gguf_vocabulary(vocabulary).error().message, HasSubstr("q zzz"));
  vocabulary.model = "t5";
  EXPECT_THAT(Tokenizer::from_gguf_vocabulary(vocabulary).error().message, HasSubstr("t5"));
}

TEST(Tokenizer, UnknownComponentsAreNamed) {
  const std::string decoder = R"(,"decoder":{"type":"ByteLevel"}})";
  const std::string model = R"("model":{"type":"BPE","vocab":{"a":0},"merges":[]})";
  EXPECT_THAT(failure_of(R"({"normalizer":{"type":"Nmt"},)" + model + decoder), HasSubstr("Nmt"));
  EXPECT_THAT(
      failure_of(R"({"pre_tokenizer":{"type":"UnicodeScripts"},)" + model + decoder),
      HasSubstr("UnicodeScripts")
  );
  EXPECT_THAT(
      failure_of(R"({"post_processor":{"type":"BertProcessing"},)" + model + decoder),
      HasSubstr("BertProcessing")
  );
  EXPECT_THAT(failure_of("{" + model + R"(,"decoder":{"type":"CTC"}})"), HasSubstr("CTC"));
  EXPECT_THAT(failure_of(R"({"model":{"type":"Unigram","vocab":[]}})"), HasSubstr("null"));
  EXPECT_EQ(failure_of("{" + model + decoder), "");
}

TEST(Tokenizer, BrokenFilesAreErrors) {
  const std::string whole = fixture("llama2");
  for (size_t size = 0; size < whole.size(); size += whole.size() / 50) {
    EXPECT_NE(failure_of(whole.substr(0, size)), "");
  }
  EXPECT_THAT(
      failure_of(R"({"model":{"vocab":{"a":-1}},"decoder":{"type":"ByteLevel"}})"),
      HasSubstr("\"a\"")
  );
  EXPECT_THAT(
      failure_of(R"({"model":{"vocab":{"a":0},"merges":["a b"]},"decoder":{"type":"ByteLevel"}})"),
      HasSubstr("merge 0")
  );
}

TEST(Tokenizer, TemplateIdsMustBeTokens) {
  EXPECT_THAT(
      failure_of(
          R"({"model":{"vocab":{"a":0},"merges":[]},"decoder":{"type":"ByteLevel"},)"
          R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},)"
          R"({"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"ids":[7]}}}})"
      ),
      ::testing::AllOf(HasSubstr("<s>"), HasSubstr("7"))
  );
}

TEST(Tokenizer, ConfigNamesSpecialTokens) {
  const auto plain = load("llama3");
  EXPECT_EQ(plain->bos_id(), -1);
  const auto tokenizer = load(
      "llama3",
      R"({"bos_token":"<s>","eos_token":{"content":"<|im_end|>"},"pad_token":"<|endoftext|>",)"
      R"("chat_template":[{"name":"tool_use","template":"t"},{"name":"default","template":"d"}]})"
  );
  EXPECT_EQ(tokenizer->token(tokenizer->bos_id()), "<s>");
  EXPECT_EQ(tokenizer->token(tokenizer->eos_id()), "<|im_end|>");
  EXPECT_EQ(tokenizer->token(tokenizer->pad_id()), "<|endoftext|>");
  EXPECT_EQ(tokenizer->chat_template(), "d");
  EXPECT_TRUE(tokenizer->is_special(tokenizer->eos_id()));
  EXPECT_FALSE(tokenizer->is_special(tokenizer->token_id("<tool>")));
  EXPECT_THAT(
      tokenizer->end_ids(),
      ElementsAre(
          tokenizer->token_id("<|endoftext|>"),
          tokenizer->token_id("<|im_end|>"),
          tokenizer->token_id("</s>")
      )
  );
}

TEST(Tokenizer, LlamaClassesBuildTheirPostProcessor) {
  const auto tokenizer = load(
      "gpt2",
      R"({"tokenizer_class":"LlamaTokenizerFast","add_bos_token":true,"add_eos_token":true,)"
      R"("bos_token":"<s>","eos_token":"</s>"})"
  );
  const auto ids = tokenizer->encode("a");
  EXPECT_EQ(ids.front(), tokenizer->bos_id());
  EXPECT_EQ(ids.back(), tokenizer->eos_id());
  EXPECT_EQ(tokenizer->encode("a", {.add_special_tokens = false}).size() + 2, ids.size());
}

TEST(Tokenizer, InvalidUtf8IsReadAsReplacementCharacters) {
  const auto tokenizer = load("qwen2");
  EXPECT_EQ(tokenizer->encode("a\xE4\xBD z\xFF"), tokenizer->encode("a\xEF\xBF\xBD z\xEF\xBF\xBD"));
}

TEST(Tokenizer, IdsOutsideTheVocabularyGiveNoText) {
  const auto tokenizer = load("gpt2");
  const Token beyond = tokenizer->vocabulary_size();
  EXPECT_EQ(tokenizer->decode(std::vector<Token>{-1, beyond, INT32_MAX}), "");
  EXPECT_EQ(tokenizer->token(beyond), "");
  EXPECT_FALSE(tokenizer->is_special(beyond));
}

TEST(Tokenizer, ManyThreadsEncodeAlike) {
  const auto tokenizer = load("deepseek_v3");
  const Json cases = *parse_json(fixture("deepseek_v3.cases"), "cases");
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (const Json& one : cases) {
        const auto ids = tokenizer->encode(one[0].get<std::string>());
        if (ids != one[1].get<std::vector<Token>>()) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

TEST(Detokenizer, GivesWholeCharactersOnly) {
  for (const char* name : {"gpt2", "llama2", "mistral", "odd"}) {
    const auto tokenizer = load(name);
    const std::string text = "héllo 🙂👨‍👩‍👧 日本 \xF0\x9F end";
    const auto ids = tokenizer->encode(text);
    Detokenizer detokenizer(*tokenizer);
    std::string all;
    for (const Token id : ids) {
      const std::string piece = detokenizer.add(id);
      // A piece that began or ended inside a character would not survive being encoded alone.
      EXPECT_TRUE(piece.empty() || (static_cast<unsigned char>(piece[0]) & 0xC0) != 0x80);
      all += piece;
    }
    detokenizer.finish(all);
    EXPECT_EQ(all, tokenizer->decode(ids)) << name;
  }
}

TEST(Detokenizer, HoldsAnUnfinishedCharacterBack) {
  const auto tokenizer = load("gpt2");
  const auto byte = [&](const char* spelling) { return tokenizer->token_id(spelling); };
  Detokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.add(byte("ð")), "");
  EXPECT_EQ(detokenizer.pending_bytes(), 1u);
  EXPECT_EQ(
      detokenizer.add(byte("a")),
      "\xEF\xBF\xBD"
      "a"
  );
  EXPECT_EQ(detokenizer.add(byte("Ã")), "");
  std::string rest;
  detokenizer.finish(rest);
  EXPECT_EQ(rest, "\xEF\xBF\xBD");
  EXPECT_EQ(detokenizer.pending_bytes(), 0u);
}

TEST(Detokenizer, LeadingSpaceAndSpecialTokens) {
  const auto tokenizer = load("llama2");
  const auto ids = tokenizer->encode("a b");  // <s> first
  EXPECT_EQ(tokenizer->decode(ids), "a b");
  EXPECT_EQ(tokenizer->decode(ids, false), "<s> a b");
  Detokenizer continuing(*tokenizer, true, TextPosition::continuation);
  std::string text;
  for (const Token id : ids) continuing.add(id, text);
  EXPECT_EQ(text, " a b");
}

}  // namespace
}  // namespace fathom::text
