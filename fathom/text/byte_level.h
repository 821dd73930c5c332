// GPT-2's spelling of bytes as printable characters: byte-level vocabularies are written in it, so
// that every token is a string without spaces or control characters ("Ġthe" is " the").
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fathom::text {

// The character that stands for `byte`: itself where it is printable Latin-1, else U+0100 and up.
char32_t byte_level_character(uint8_t byte);

// The bytes that `token` spells, nullopt when one of its characters stands for no byte. `token`
// must be valid UTF-8.
std::optional<std::string> byte_level_bytes(std::string_view token);

}  // namespace fathom::text
