#include "fathom/text/jinja/token_stream.h"

#include <fmt/format.h>

#include "fathom/text/jinja/value.h"

namespace fathom::text::jinja {
namespace {

std::string description(const LexerToken& token) {
  switch (token.kind) {
    case TokenKind::text:
      return "template text";
    case TokenKind::block_begin:
      return "{%";
    case TokenKind::block_end:
      return "%}";
    case TokenKind::variable_begin:
      return "{{";
    case TokenKind::variable_end:
      return "}}";
    case TokenKind::end:
      return "the end of the template";
    case TokenKind::string:
      return fmt::format("the string \"{:.40}\"", token.text);
    default:
      return fmt::format("\"{:.40}\"", token.text);
  }
}

}  // namespace

bool TokenStream::skip_symbol(std::string_view text) {
  if (!at_symbol(text)) return false;
  next();
  return true;
}

bool TokenStream::skip_name(std::string_view text) {
  if (!at_name(text)) return false;
  next();
  return true;
}

void TokenStream::expect_symbol(std::string_view text) {
  if (!skip_symbol(text)) fail(fmt::format("expected \"{}\"", text));
}

void TokenStream::expect_name(std::string_view text) {
  if (!skip_name(text)) fail(fmt::format("expected \"{}\"", text));
}

std::string TokenStream::expect(TokenKind kind, std::string_view what) {
  if (!at(kind)) fail(fmt::format("expected {}", what));
  return next().text;
}

void TokenStream::fail(std::string_view what) const {
  throw TemplateError(fmt::format("line {}: {}, found {}", line(), what, description(current())));
}

}  // namespace fathom::text::jinja
