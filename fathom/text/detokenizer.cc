#include "fathom/text/detokenizer.h"

#include "fathom/text/tokenizer_parts.h"
#include "fathom/text/utf8.h"

namespace fathom::text {

Detokenizer::Detokenizer(
    const Tokenizer& tokenizer, bool skip_special_tokens, TextPosition position
)
    : tokenizer_(&tokenizer),
      skip_special_tokens_(skip_special_tokens),
      strip_left_(position == TextPosition::start ? tokenizer.parts_->strip_left : 0) {}

void Detokenizer::add(Token token, std::string& text) {
  if (skip_special_tokens_ && tokenizer_->is_special(token)) return;
  std::string_view bytes = tokenizer_->token_bytes(token);
  if (bytes.empty()) return;
  while (strip_left_ > 0 && bytes.starts_with(' ')) {
    bytes.remove_prefix(1);
    --strip_left_;
  }
  if (!bytes.empty() || tokenizer_->parts_->strip_first_token_only) strip_left_ = 0;
  add_bytes(bytes, text);
}

std::string Detokenizer::add(Token token) {
  std::string text;
  add(token, text);
  return text;
}

void Detokenizer::add_bytes(std::string_view bytes, std::string& text) {
  std::string joined;
  if (!pending_.empty()) {
    joined = pending_ + std::string(bytes);
    bytes = joined;
    pending_.clear();
  }
  while (!bytes.empty()) {
    const Utf8Step step = next_sequence(bytes);
    if (step.kind == Utf8Step::Kind::unfinished) {
      pending_ = bytes;
      return;
    }
    text +=
        step.kind == Utf8Step::Kind::valid ? bytes.substr(0, step.bytes) : kReplacementCharacter;
    bytes.remove_prefix(step.bytes);
  }
}

void Detokenizer::finish(std::string& text) {
  if (!pending_.empty()) text += kReplacementCharacter;
  pending_.clear();
}

}  // namespace fathom::text
