// Reads the vocabulary of a GGUF file.
#include <algorithm>
#include <span>

#include "fathom/text/split_patterns.h"
#include "fathom/text/tokenizer_readers.h"
#include "fathom/text/utf8.h"

namespace fathom::text {
namespace {

constexpr std::string_view kSpaceMark = "▁";

// What tokenizer.ggml.pre stands for: splits in order, and what else the family does.
struct PreFamily {
  std::span<const std::string_view> names;
  std::span<const std::string_view> splits;
  bool ignore_merges = false;
  bool nfc = false;
};

constexpr std::string_view kGpt2Names[] = {"gpt-2", "gpt2", "default", "phi-2", "jina-es"};
constexpr std::string_view kGpt2Splits[] = {kGpt2Split};
constexpr std::string_view kSmollmNames[] = {"smollm", "starcoder", "refact", "codeshell"};
constexpr std::string_view kSmollmSplits[] = {kSingleDigit, kGpt2Split};
constexpr std::string_view kLlama3Names[] = {"llama-bpe", "llama3", "llama-v3", "smaug-bpe"};
constexpr std::string_view kLlama3Splits[] = {kLlama3Split};
constexpr std::string_view kQwen2Names[] = {"qwen2", "deepseek-r1-qwen"};
constexpr std::string_view kQwen2Splits[] = {kQwen2Split};
constexpr std::string_view kDeepseekNames[] = {"deepseek-v3", "hunyuan-dense"};
constexpr std::string_view kDeepseekSplits[] = {kDigitsUpTo3, kDeepseekCjk, kDeepseekSplit};
constexpr std::string_view kO200kNames[] = {"gpt-4o", "llama4"};
constexpr std::string_view kO200kSplits[] = {kO200kSplit};
constexpr std::string_view kTekkenNames[] = {"tekken"};
constexpr std::string_view kTekkenSplits[] = {kTekkenSplit};

constexpr PreFamily kFamilies[] = {
    {.names = kGpt2Names, .splits = kGpt2Splits},
    {.names = kSmollmNames, .splits = kSmollmSplits},
    {.names = kLlama3Names, .splits = kLlama3Splits, .ignore_merges = true},
    {.names = kQwen2Names, .splits = kQwen2Splits, .nfc = true},
    {.names = kDeepseekNames, .splits = kDeepseekSplits},
    {.names = kO200kNames, .splits = kO200kSplits},
    {.names = kTekkenNames, .splits = kTekkenSplits, .ignore_merges = true},
};

Error unknown_family(std::string_view pre) {
  std::string supported;
  for (const PreFamily& family : kFamilies) {
    for (const std::string_view name : family.names) {
      supported.append(supported.empty() ? "" : ", ").append(name);
    }
  }
  return error("GGUF: tokenizer.ggml.pre \"{}\" is not supported ({})", pre, supported);
}

Result<void> check_sizes(const GgufVocabulary& vocabulary) {
  const size_t tokens = vocabulary.tokens.size();
  if (tokens == 0 || tokens > size_t{kMaxTokenId} + 1) {
    return error("GGUF: tokenizer.ggml.tokens has {} entries, 1 .. {}", tokens, kMaxTokenId + 1);
  }
  if (!vocabulary.token_types.empty() && vocabulary.token_types.size() != tokens) {
    return error("GGUF: {} token types for {} tokens", vocabulary.token_types.size(), tokens);
  }
  for (const Token id :
       {vocabulary.bos_id,
        vocabulary.eos_id,
        vocabulary.eot_id,
        vocabulary.pad_id,
        vocabulary.unknown_id}) {
    if (id < -1 || id >= static_cast<Token>(tokens)) {
      return error("GGUF: special token id {} of a vocabulary of {}", id, tokens);
    }
  }
  return {};
}

// Moves the tokens into the model; control and user-defined ones become added tokens, which no
// merge makes.
void take_tokens(GgufVocabulary& vocabulary, TokenizerSpec& spec) {
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    std::string token = std::move(vocabulary.tokens[id]);
    if (!is_valid_utf8(token)) token = replace_invalid_utf8(token);
    const GgufTokenType type =
        vocabulary.token_types.empty() ? GgufTokenType::normal : vocabulary.token_types[id];
    const bool added = type == GgufTokenType::control || type == GgufTokenType::user_defined ||
                       type == GgufTokenType::unknown;
    if (added && !token.empty()) {
      spec.added.push_back(
          {.content = token,
           .id = static_cast<Token>(id),
           .special = type != GgufTokenType::user_defined}
      );
      token.clear();
    }
    spec.model.tokens.push_back(std::move(token));
  }
}

Result<void> read_merges(const std::vector<std::string>& lines, BpeModel& model) {
  if (lines.empty()) return error("GGUF: tokenizer.ggml.merges is missing or empty");
  const TokenTable table(model.tokens);
  for (const std::string& line : lines) {
    // A merge may begin with a space of its own only when there is none in the alphabet.
    const size_t space = line.find(' ', 1);
    const std::string left = line.substr(0, space);
    const std::string right = space == line.npos ? "" : line.substr(space + 1);
    const int rank = static_cast<int>(model.merges.size());
    const Merge merge{table.find(left), table.find(right), table.find(left + right), rank};
    if (merge.left < 0 || merge.right < 0 || merge.merged < 0) {
      return error("GGUF: merge {} (\"{}\") needs a token that is not in the list", rank, line);
    }
    model.merges.push_back(merge);
  }
  return {};
}

Result<void> read_gpt2(GgufVocabulary& vocabulary, TokenizerSpec& spec) {
  const PreFamily* family = nullptr;
  for (const PreFamily& candidate : kFamilies) {
    const auto& names = candidate.names;
    if (std::find(names.begin(), names.end(), vocabulary.pre) != names.end()) family = &candidate;
  }
  if (family == nullptr) return unknown_family(vocabulary.pre);
  std::vector<PreTokenizer::Step> steps;
  for (const std::string_view split : family->splits) {
    Result<Regex> pattern = Regex::compile(split);
    if (!pattern) return pattern.error();
    steps.emplace_back(PreTokenizer::Split{std::move(*pattern)});
  }
  spec.pre_tokenizer = PreTokenizer(std::move(steps), true);
  if (family->nfc) {
    std::vector<Normalizer::Step> normal;
    normal.emplace_back(Normalizer::Form::nfc);
    spec.normalizer = Normalizer(std::move(normal));
  }
  spec.model.byte_level = true;
  spec.model.ignore_merges = family->ignore_merges;
  spec.decoder.byte_level = true;
  return read_merges(vocabulary.merges, spec.model);
}

// SentencePiece has no list of merges: two neighbours merge when their concatenation is a token,
// the one with the highest score first.
void merges_from_scores(const std::vector<float>& scores, BpeModel& model) {
  const TokenTable table(model.tokens);
  std::vector<Token> order;
  for (int id = 0; id < table.size(); ++id) {
    if (!table[id].empty() && table.find(table[id]) == id) order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(), [&](Token a, Token b) {
    return scores[a] > scores[b];
  });
  int rank = -1;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || scores[order[i]] != scores[order[i - 1]]) ++rank;
    const std::string_view token = table[order[i]];
    for (size_t at = 0; (at += code_point_at(token, at).bytes) < token.size();) {
      const Token left = table.find(token.substr(0, at));
      const Token right = table.find(token.substr(at));
      if (left >= 0 && right >= 0) model.merges.push_back({left, right, order[i], rank});
    }
  }
}

Result<void> read_llama(GgufVocabulary& vocabulary, TokenizerSpec& spec) {
  if (vocabulary.scores.size() != spec.model.tokens.size()) {
    return error(
        "GGUF: {} scores for {} tokens: model \"llama\" needs one each",
        vocabulary.scores.size(),
        spec.model.tokens.size()
    );
  }
  for (float& score : vocabulary.scores) {
    if (score != score) return error("GGUF: a token's score is not a number");
  }
  spec.model.byte_fallback = true;
  spec.model.fuse_unknown = true;
  spec.model.unknown_id = vocabulary.unknown_id;
  merges_from_scores(vocabulary.scores, spec.model);
  std::vector<Normalizer::Step> steps;
  if (vocabulary.add_space_prefix) steps.emplace_back(Normalizer::Prepend{std::string(kSpaceMark)});
  steps.emplace_back(Normalizer::Replace{" ", std::nullopt, std::string(kSpaceMark)});
  spec.normalizer = Normalizer(std::move(steps));
  spec.decoder.byte_fallback = true;
  spec.decoder.replacements = {{std::string(kSpaceMark), " "}};
  spec.decoder.strip_left = vocabulary.add_space_prefix ? 1 : 0;
  return {};
}

}  // namespace

Result<TokenizerSpec> read_gguf_tokenizer(GgufVocabulary vocabulary) {
  Result<void> done = check_sizes(vocabulary);
  if (!done) return done.error();
  TokenizerSpec spec;
  take_tokens(vocabulary, spec);
  if (vocabulary.model == "gpt2") {
    done = read_gpt2(vocabulary, spec);
  } else if (vocabulary.model == "llama") {
    done = read_llama(vocabulary, spec);
  } else {
    return error(
        "GGUF: tokenizer.ggml.model \"{}\" is not supported (gpt2, llama)", vocabulary.model
    );
  }
  if (!done) return done.error();
  spec.bos_id = vocabulary.bos_id;
  spec.eos_id = vocabulary.eos_id;
  spec.pad_id = vocabulary.pad_id;
  if (vocabulary.eot_id >= 0) spec.end_ids.push_back(vocabulary.eot_id);
  if (vocabulary.add_bos && vocabulary.bos_id >= 0) spec.prefix.push_back(vocabulary.bos_id);
  if (vocabulary.add_eos && vocabulary.eos_id >= 0) spec.suffix.push_back(vocabulary.eos_id);
  spec.chat_template = std::move(vocabulary.chat_template);
  return spec;
}

}  // namespace fathom::text
