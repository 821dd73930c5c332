// Template source to tokens. White space around tags is treated as transformers has it: trim_blocks
// and lstrip_blocks on, one newline at the end of the source dropped.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fathom::text::jinja {

enum class TokenKind {
  text,            // template text between tags
  block_begin,     // {%
  block_end,       // %}
  variable_begin,  // {{
  variable_end,    // }}
  name,
  string,  // escapes resolved
  integer,
  number,
  symbol,  // an operator or bracket
  end,
};

struct LexerToken {
  TokenKind kind;
  int line;  // 1-based
  std::string text;
};

// A TemplateError with the line when the source is not well formed. The last token is `end`.
std::vector<LexerToken> tokenize(std::string_view source);

}  // namespace fathom::text::jinja
