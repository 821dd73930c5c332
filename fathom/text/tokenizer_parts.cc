#include "fathom/text/tokenizer_parts.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "fathom/text/byte_level.h"
#include "fathom/text/utf8.h"

namespace fathom::text {
namespace {

// Spellings of tokens that end a turn or a text, over the public families.
constexpr std::string_view kEndMarkers[] = {
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<|EOT|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|return|>",
    "<|call|>",
    "</s>",
    "<｜end▁of▁sentence｜>",
};

std::vector<std::string> all_spellings(const TokenizerSpec& spec) {
  std::vector<std::string> spellings = spec.model.tokens;
  for (const AddedToken& token : spec.added) {
    if (static_cast<size_t>(token.id) >= spellings.size()) spellings.resize(token.id + 1);
    spellings[token.id] = token.content;
  }
  return spellings;
}

// The byte of "<0xXX>", nullopt for other spellings.
std::optional<char> fallback_byte(std::string_view token) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  const int high = digit(token[3]);
  const int low = digit(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high * 16 + low);
}

std::string decoded(const std::string& token, const TokenDecoder& decoder) {
  if (decoder.byte_level) return byte_level_bytes(token).value_or(token);
  std::string text = token;
  for (const auto& [from, to] : decoder.replacements) {
    for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) {
      text.replace(at, from.size(), to);
    }
  }
  if (!decoder.byte_fallback) return text;
  const std::optional<char> byte = fallback_byte(text);
  return byte ? std::string(1, *byte) : text;
}

// A token that is matched in normalized text stands for the normal form of its spelling.
std::vector<std::string> all_bytes(const TokenizerSpec& spec) {
  std::vector<std::string> bytes = all_spellings(spec);
  for (const AddedToken& token : spec.added) {
    std::string buffer;
    if (token.normalized) bytes[token.id] = spec.normalizer.apply(token.content, buffer);
  }
  for (std::string& token : bytes) token = decoded(token, spec.decoder);
  return bytes;
}

// The added tokens to be looked for in the raw or in the normalized text; the latter are spelled
// as the normalizer leaves them.
std::vector<AddedToken> matched_in(
    const std::vector<AddedToken>& added, bool normalized, const Normalizer& normalizer
) {
  std::vector<AddedToken> tokens;
  for (AddedToken token : added) {
    if (token.normalized != normalized) continue;
    std::string buffer;
    if (normalized) token.content = std::string(normalizer.apply(token.content, buffer));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

std::vector<bool> special_flags(const TokenizerSpec& spec, int size) {
  std::vector<bool> flags(static_cast<size_t>(size));
  for (const AddedToken& token : spec.added) {
    if (token.special) flags[token.id] = true;
  }
  return flags;
}

std::vector<Token> all_end_ids(const TokenizerSpec& spec, const TokenTable& spellings) {
  std::vector<Token> ids = spec.end_ids;
  if (spec.eos_id >= 0) ids.push_back(spec.eos_id);
  for (const std::string_view marker : kEndMarkers) {
    const Token id = spellings.find(marker);
    if (id >= 0) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace

Tokenizer::Parts::Parts(TokenizerSpec spec)
    : spellings(all_spellings(spec)),
      bytes(all_bytes(spec)),
      special(special_flags(spec, spellings.size())),
      bpe(spec.model),
      normalizer(std::move(spec.normalizer)),
      pre_tokenizer(std::move(spec.pre_tokenizer)),
      raw_matcher(matched_in(spec.added, false, normalizer)),
      normal_matcher(matched_in(spec.added, true, normalizer)),
      strip_left(spec.decoder.strip_left),
      strip_first_token_only(spec.decoder.strip_first_token_only),
      prefix(std::move(spec.prefix)),
      suffix(std::move(spec.suffix)),
      bos_id(spec.bos_id),
      eos_id(spec.eos_id),
      pad_id(spec.pad_id),
      end_ids(all_end_ids(spec, spellings)),
      chat_template(std::move(spec.chat_template)) {}

std::unique_ptr<Tokenizer::Parts::Scratch> Tokenizer::Parts::ScratchPool::take(
    const PreTokenizer& splitter
) {
  {
    std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      std::unique_ptr<Scratch> scratch = std::move(free_.back());
      free_.pop_back();
      return scratch;
    }
  }
  return std::make_unique<Scratch>(splitter);
}

void Tokenizer::Parts::ScratchPool::give_back(std::unique_ptr<Scratch> scratch) {
  std::lock_guard lock(mutex_);
  free_.push_back(std::move(scratch));
}

void Tokenizer::Parts::encode_text(
    std::string_view text, EncodeOptions options, Scratch& scratch, std::vector<Token>& tokens
) const {
  scratch.raw_parts.clear();
  raw_matcher.split(text, options.parse_special_tokens, scratch.raw_parts);
  for (const TextPart& raw : scratch.raw_parts) {
    if (raw.id >= 0) {
      tokens.push_back(raw.id);
      continue;
    }
    const bool at_start = raw.text.data() == text.data();
    const std::string_view normal = normalizer.apply(raw.text, scratch.normal);
    scratch.parts.clear();
    normal_matcher.split(normal, options.parse_special_tokens, scratch.parts);
    for (const TextPart& part : scratch.parts) {
      if (part.id >= 0) {
        tokens.push_back(part.id);
      } else {
        encode_pieces(part.text, at_start && part.text.data() == normal.data(), scratch, tokens);
      }
    }
  }
}

void Tokenizer::Parts::encode_pieces(
    std::string_view text, bool at_start, Scratch& scratch, std::vector<Token>& tokens
) const {
  struct Context {
    const Bpe& bpe;
    Bpe::Scratch& scratch;
    std::vector<Token>& tokens;
  } context{bpe, scratch.bpe, tokens};
  const auto encode_piece = [](void* erased, std::string_view piece) {
    Context& c = *static_cast<Context*>(erased);
    c.bpe.encode(piece, c.scratch, c.tokens);
  };
  pre_tokenizer.split(text, at_start, scratch.split, {encode_piece, &context});
}

}  // namespace fathom::text
