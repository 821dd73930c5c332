// UTF-8 at the level of bytes (Unicode 15, section 3.9).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fathom::text {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// What the bytes begin with.
struct Utf8Step {
  enum class Kind { valid, invalid, unfinished };
  Kind kind;
  int bytes;  // of the valid sequence, of the maximal invalid part, or all of an unfinished one
};

// `bytes` must not be empty. unfinished: the bytes end inside a sequence that may still be valid.
Utf8Step next_sequence(std::string_view bytes);

bool is_valid_utf8(std::string_view bytes);

// U+FFFD for each maximal invalid part, and for an unfinished tail.
std::string replace_invalid_utf8(std::string_view bytes);

struct CodePoint {
  char32_t value;
  int bytes;
};

// The code point that begins at `at`; the text must be valid.
CodePoint code_point_at(std::string_view text, size_t at);

void append_utf8(char32_t code_point, std::string& text);

}  // namespace fathom::text
