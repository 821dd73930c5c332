#include "fathom/text/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "fathom/text/jinja/value.h"
#include "fathom/text/utf8.h"

namespace fathom::text::jinja {
namespace {

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
// Characters beyond ASCII are allowed in names.
bool is_name_character(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         (static_cast<unsigned char>(c) & 0x80) != 0;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized(source)) {}

  std::vector<LexerToken> run() {
    while (at_ < source_.size()) lex_text();
    push(TokenKind::end, "");
    return std::move(tokens_);
  }

 private:
  // Newlines as \n, without the last one.
  static std::string normalized(std::string_view source) {
    std::string text;
    text.reserve(source.size());
    for (size_t i = 0; i < source.size(); ++i) {
      if (source[i] == '\r') {
        text += '\n';
        if (source.substr(i + 1).starts_with('\n')) ++i;
      } else {
        text += source[i];
      }
    }
    if (text.ends_with('\n')) text.pop_back();
    return text;
  }

  [[noreturn]] void fail(std::string_view what) const {
    throw TemplateError(fmt::format("line {}: {}", line_, what));
  }

  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool sees(std::string_view text) const { return rest().starts_with(text); }

  void push(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  // Moves on by `count` bytes. after_newline_ tells whether a tag at at_ would begin its line.
  void advance(size_t count) {
    line_ += static_cast<int>(std::count(&source_[at_], &source_[at_] + count, '\n'));
    at_ += count;
    if (count > 0) after_newline_ = source_[at_ - 1] == '\n';
  }

  void skip_spaces() {
    while (at_ < source_.size() && is_space(source_[at_])) advance(1);
  }

  // Text up to the next tag, then the tag.
  void lex_text() {
    size_t tag = at_;
    const auto opens = [&](char c) { return c == '{' || c == '%' || c == '#'; };
    while ((tag = source_.find('{', tag)) != std::string::npos) {
      if (tag + 1 < source_.size() && opens(source_[tag + 1])) break;
      ++tag;
    }
    if (tag == std::string::npos) {
      emit_text(source_.size() - at_, source_.size() - at_);
      return;
    }
    const char kind = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    emit_text(tag - at_, kept_bytes(rest().substr(0, tag - at_), kind, sign));
    advance(sign == '-' || sign == '+' ? 3 : 2);
    if (kind == '#') {
      lex_comment();
    } else if (kind == '{') {
      lex_tag(TokenKind::variable_begin, TokenKind::variable_end, "}}");
    } else if (!lex_raw()) {
      lex_tag(TokenKind::block_begin, TokenKind::block_end, "%}");
    }
  }

  // How much of the text before a tag stays.
  size_t kept_bytes(std::string_view text, char kind, char sign) const {
    size_t last = text.size();
    while (last > 0 && is_space(text[last - 1])) --last;
    if (sign == '-') return last;
    if (sign == '+' || kind == '{') return text.size();
    const size_t newline = text.rfind('\n');
    const size_t line_start = newline == text.npos ? 0 : newline + 1;
    if (newline == text.npos && !after_newline_) return text.size();
    return last <= line_start ? line_start : text.size();
  }

  void emit_text(size_t bytes, size_t kept) {
    if (kept > 0) push(TokenKind::text, std::string(rest().substr(0, kept)));
    advance(bytes);
  }

  // Passes the end of a tag that `close` stands before: its sign, itself, and what it trims.
  void lex_end(std::string_view close, bool trims_newline) {
    const bool trims_all = sees("-");
    advance((sees("-") || sees("+") ? 1 : 0) + close.size());
    if (trims_all) {
      skip_spaces();
    } else if (trims_newline && source_[at_ - close.size() - 1] != '+' && sees("\n")) {
      advance(1);
    }
  }

  bool sees_end(std::string_view close) const {
    return sees(close) ||
           ((sees("-") || (sees("+") && close != "}}")) && rest().substr(1).starts_with(close));
  }

  void lex_comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail("a comment without its end");
    const char sign = end > at_ ? source_[end - 1] : ' ';
    advance(end - at_ - (sign == '-' || sign == '+' ? 1 : 0));
    lex_end("#}", true);
  }

  // {% raw %} ... {% endraw %}; false when this tag is another.
  bool lex_raw() {
    size_t after = at_;
    if (!passes_word(after, "raw")) return false;
    const bool trims = source_[after] == '-';
    advance(after + (trims ? 1 : 0) + 2 - at_);
    if (trims) skip_spaces();
    for (size_t tag = at_; (tag = source_.find("{%", tag)) != std::string::npos; ++tag) {
      size_t inside = tag + 2;
      const char sign = inside < source_.size() ? source_[inside] : ' ';
      if (sign == '-' || sign == '+') ++inside;
      if (!passes_word(inside, "endraw")) continue;
      emit_text(tag - at_, kept_bytes(rest().substr(0, tag - at_), '%', sign));
      advance(inside - at_);
      lex_end("%}", true);
      return true;
    }
    fail("{% raw %} without {% endraw %}");
  }

  // Moves `at` behind the word when the tag at `at` holds just that; it then stands before %} or
  // its sign.
  bool passes_word(size_t& at, std::string_view word) const {
    const std::string_view source = source_;
    const auto skip = [&](size_t from) {
      while (from < source.size() && is_space(source[from])) ++from;
      return from;
    };
    size_t end = skip(at);
    if (!source.substr(end).starts_with(word)) return false;
    end = skip(end + word.size());
    const std::string_view tail = source.substr(end);
    if (!tail.starts_with("%}") && !tail.starts_with("-%}") && !tail.starts_with("+%}")) {
      return false;
    }
    at = end;
    return true;
  }

  void lex_tag(TokenKind begin, TokenKind end, std::string_view close) {
    push(begin, "");
    std::string brackets;  // those open: inside them "}}" is no end
    while (true) {
      skip_spaces();
      if (at_ == source_.size()) fail(fmt::format("a tag without its {}", close));
      if (brackets.empty() && sees_end(close)) break;
      lex_token(brackets);
    }
    push(end, "");
    lex_end(close, end == TokenKind::block_end);
  }

  void lex_token(std::string& brackets) {
    const char c = source_[at_];
    if (c == '"' || c == '\'') return lex_string(c);
    if (is_digit(c)) return lex_number();
    if (is_name_character(c)) {
      size_t end = at_;
      while (end < source_.size() && is_name_character(source_[end])) ++end;
      push(TokenKind::name, source_.substr(at_, end - at_));
      return advance(end - at_);
    }
    lex_symbol(brackets);
  }

  void lex_symbol(std::string& brackets) {
    constexpr std::array<std::string_view, 25> kSymbols = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "(",
        ")",  "[",  "]",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ","};
    const auto found =
        std::find_if(kSymbols.begin(), kSymbols.end(), [&](auto s) { return sees(s); });
    if (found == kSymbols.end()) fail(fmt::format("unexpected character '{}'", source_[at_]));
    const char c = (*found)[0];
    if (c == '(') brackets += ')';
    if (c == '[') brackets += ']';
    if (c == '{') brackets += '}';
    if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty() || brackets.back() != c) fail(fmt::format("unexpected '{}'", c));
      brackets.pop_back();
    }
    push(TokenKind::symbol, std::string(*found));
    advance(found->size());
  }

  size_t skip_digits(size_t from) const {
    while (from < source_.size() && (is_digit(source_[from]) || source_[from] == '_')) ++from;
    return from;
  }

  void lex_number() {
    size_t end = skip_digits(at_);
    TokenKind kind = TokenKind::integer;
    const auto at = [&](size_t i) { return i < source_.size() ? source_[i] : '\0'; };
    if (at(end) == '.' && is_digit(at(end + 1))) {
      end = skip_digits(end + 1);
      kind = TokenKind::number;
    }
    if (at(end) == 'e' || at(end) == 'E') {
      const size_t digits = end + (at(end + 1) == '+' || at(end + 1) == '-' ? 2 : 1);
      if (is_digit(at(digits))) {
        end = skip_digits(digits);
        kind = TokenKind::number;
      }
    }
    std::string text = source_.substr(at_, end - at_);
    std::erase(text, '_');
    push(kind, std::move(text));
    advance(end - at_);
  }

  void lex_string(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail("a string without its end");
    push(TokenKind::string, unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1)));
    advance(end + 1 - at_);
  }

  std::string unescape(std::string_view text) const {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\') {
        out += text[i];
        continue;
      }
      const char c = text[++i];
      constexpr std::string_view kEscapes = "nrtabfv0\\'\"";
      constexpr std::string_view kMeanings{"\n\r\t\a\b\f\v\0\\'\"", 11};
      const size_t known = kEscapes.find(c);
      if (known != kEscapes.npos) {
        out += kMeanings[known];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        i += append_hex(text.substr(i + 1), c == 'x' ? 2 : c == 'u' ? 4 : 8, out);
      } else if (c != '\n') {
        out.append({'\\', c});
      }
    }
    return out;
  }

  size_t append_hex(std::string_view text, size_t digits, std::string& out) const {
    char32_t value = 0;
    if (text.size() < digits) fail("a string escape is cut short");
    for (size_t i = 0; i < digits; ++i) {
      constexpr std::string_view kDigits = "0123456789abcdef";
      const size_t digit = kDigits.find(static_cast<char>(text[i] | 0x20));
      if (digit == kDigits.npos) fail("a string escape that is not hexadecimal");
      value = value * 16 + static_cast<char32_t>(digit);
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) fail("an escape of no character");
    append_utf8(value, out);
    return digits;
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool after_newline_ = true;
  std::vector<LexerToken> tokens_;
};

}  // namespace

std::vector<LexerToken> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace fathom::text::jinja
