// Token ids of one output, one after the other, to text that is whole UTF-8 at every moment: bytes
// of an unfinished sequence are held back until it is complete or known to be broken (then U+FFFD).
//
// Threads: one owner. The tokenizer must outlive it.
#pragma once

#include <string>
#include <string_view>

#include "fathom/text/tokenizer.h"

namespace fathom::text {

// Tokenizers of the Llama 2 kind drop one space at the start of a text.
enum class TextPosition {
  start,         // the tokens begin a text of their own
  continuation,  // they go on after a prompt: a leading space is kept
};

class Detokenizer {
 public:
  explicit Detokenizer(
      const Tokenizer& tokenizer,
      bool skip_special_tokens = true,
      TextPosition position = TextPosition::start
  );

  // Appends to `text` what `token` completes; may be nothing. The concatenation of all appended
  // text with that of finish() is Tokenizer::decode of all tokens.
  void add(Token token, std::string& text);
  std::string add(Token token);

  // Appends U+FFFD for a sequence that stayed unfinished. The detokenizer is then as new, but in
  // the middle of the text.
  void finish(std::string& text);

  // Bytes held back.
  size_t pending_bytes() const { return pending_.size(); }

 private:
  void add_bytes(std::string_view bytes, std::string& text);

  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  int strip_left_;       // leading spaces still to drop
  std::string pending_;  // an unfinished UTF-8 sequence, at most 3 bytes
};

}  // namespace fathom::text
