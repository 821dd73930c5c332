#include "fathom/text/byte_level.h"

#include <array>

#include "fathom/text/utf8.h"

namespace fathom::text {
namespace {

constexpr int kCharacters = 0x100 + 68;  // 68 bytes are not printable Latin-1

constexpr bool is_printable(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
}

struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<int, kCharacters> byte{};  // -1: stands for none
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte.fill(-1);
  int shifted = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const int character = is_printable(byte) ? byte : 0x100 + shifted++;
    alphabet.character[byte] = static_cast<char32_t>(character);
    alphabet.byte[character] = byte;
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

char32_t byte_level_character(uint8_t byte) {
  return kAlphabet.character[byte];
}

std::optional<std::string> byte_level_bytes(std::string_view token) {
  std::string bytes;
  bytes.reserve(token.size());
  for (size_t at = 0; at < token.size();) {
    const CodePoint c = code_point_at(token, at);
    if (c.value >= kCharacters || kAlphabet.byte[c.value] < 0) return std::nullopt;
    bytes += static_cast<char>(kAlphabet.byte[c.value]);
    at += c.bytes;
  }
  return bytes;
}

}  // namespace fathom::text
