// Properties of characters that tokenizers and templates ask for.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fathom::text {

// White_Space.
bool is_white_space(char32_t c);
// What \w matches: Alphabetic, marks, decimal digits, connectors, join controls.
bool is_word(char32_t c);
// Nonspacing, spacing and enclosing marks.
bool is_mark(char32_t c);
// What Python prints as it is in repr: no control, format, surrogate, private or unassigned
// character, no separator but the space.
bool is_printable(char32_t c);

// Where the last character of a non-empty valid text begins.
size_t last_code_point(std::string_view text);

// Without the white space at one end.
std::string_view trimmed_left(std::string_view text);
std::string_view trimmed_right(std::string_view text);

}  // namespace fathom::text
