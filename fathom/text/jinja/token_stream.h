// The tokens of a template as the parser reads them.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/text/jinja/lexer.h"

namespace fathom::text::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::string_view source) : tokens_(tokenize(source)) {}

  const LexerToken& current() const { return tokens_[at_]; }
  // `ahead` tokens further, the end at most.
  const LexerToken& peek(size_t ahead = 1) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  int line() const { return current().line; }

  LexerToken next() {
    LexerToken token = current();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }

  bool at(TokenKind kind) const { return current().kind == kind; }
  bool at_symbol(std::string_view text) const { return is_symbol(current(), text); }
  bool at_name(std::string_view text) const { return is_name(current(), text); }

  bool skip_symbol(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_symbol(std::string_view text);
  void expect_name(std::string_view text);
  std::string expect(TokenKind kind, std::string_view what);

  // A TemplateError that names the line and the token found.
  [[noreturn]] void fail(std::string_view what) const;

  static bool is_symbol(const LexerToken& token, std::string_view text) {
    return token.kind == TokenKind::symbol && token.text == text;
  }
  static bool is_name(const LexerToken& token, std::string_view text) {
    return token.kind == TokenKind::name && token.text == text;
  }

 private:
  std::vector<LexerToken> tokens_;
  size_t at_ = 0;
};

}  // namespace fathom::text::jinja
