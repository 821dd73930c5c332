// Python's operations on strings, on valid UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::text::jinja {

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string case_swapped(std::string_view text);
// The first letter in upper case, all others in lower case.
std::string capitalized(std::string_view text);
// Of every word: a run of letters.
std::string titled(std::string_view text);

// str.isupper or str.islower: all cased letters are, and there is one.
bool has_case(std::string_view text, bool is_upper);

// Without the characters of `characters` at the ends wanted; white space when it is empty.
std::string_view stripped(
    std::string_view text, std::string_view characters, bool left, bool right
);

// str.split and str.rsplit: at white space when `separator` is empty; most < 0: everywhere.
std::vector<std::string_view> split(
    std::string_view text, std::string_view separator, int64_t most
);
std::vector<std::string_view> split_right(
    std::string_view text, std::string_view separator, int64_t most
);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

// The first `most` occurrences replaced; most < 0: all.
std::string replaced(
    std::string_view text, std::string_view from, std::string_view to, int64_t most
);

}  // namespace fathom::text::jinja
