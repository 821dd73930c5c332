#include "fathom/text/utf8.h"

#include <cstdint>
#include <cstring>

namespace fathom::text {
namespace {

// Bytes of a sequence by its first byte, 0 for bytes that begin none, and the range of the second
// byte, which excludes overlong forms, surrogates and what is beyond U+10FFFF.
struct Lead {
  int bytes;
  uint8_t low, high;
};

Lead lead_of(uint8_t first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xC2) return {0, 0, 0};
  if (first < 0xE0) return {2, 0x80, 0xBF};
  if (first < 0xF0) {
    return {3, uint8_t(first == 0xE0 ? 0xA0 : 0x80), uint8_t(first == 0xED ? 0x9F : 0xBF)};
  }
  if (first < 0xF5) {
    return {4, uint8_t(first == 0xF0 ? 0x90 : 0x80), uint8_t(first == 0xF4 ? 0x8F : 0xBF)};
  }
  return {0, 0, 0};
}

// Bytes of ASCII that `bytes` begins with, in steps of eight.
size_t ascii_words(std::string_view bytes) {
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  return at;
}

}  // namespace

Utf8Step next_sequence(std::string_view bytes) {
  const Lead lead = lead_of(static_cast<uint8_t>(bytes[0]));
  if (lead.bytes == 0) return {Utf8Step::Kind::invalid, 1};
  for (int i = 1; i < lead.bytes; ++i) {
    if (static_cast<size_t>(i) == bytes.size()) return {Utf8Step::Kind::unfinished, i};
    const uint8_t byte = static_cast<uint8_t>(bytes[i]);
    const uint8_t low = i == 1 ? lead.low : 0x80;
    const uint8_t high = i == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) return {Utf8Step::Kind::invalid, i};
  }
  return {Utf8Step::Kind::valid, lead.bytes};
}

bool is_valid_utf8(std::string_view bytes) {
  while (true) {
    bytes.remove_prefix(ascii_words(bytes));
    if (bytes.empty()) return true;
    const Utf8Step step = next_sequence(bytes);
    if (step.kind != Utf8Step::Kind::valid) return false;
    bytes.remove_prefix(step.bytes);
  }
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const Utf8Step step = next_sequence(bytes);
    if (step.kind == Utf8Step::Kind::valid) {
      text += bytes.substr(0, step.bytes);
    } else {
      text += kReplacementCharacter;
    }
    bytes.remove_prefix(step.bytes);
  }
  return text;
}

CodePoint code_point_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return {first, 1};
  const auto tail = [&](size_t i) { return char32_t{byte(i)} & 0x3F; };
  if (first < 0xE0) return {(char32_t{first} & 0x1F) << 6 | tail(1), 2};
  if (first < 0xF0) return {(char32_t{first} & 0x0F) << 12 | tail(1) << 6 | tail(2), 3};
  return {(char32_t{first} & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4};
}

void append_utf8(char32_t code_point, std::string& text) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

}  // namespace fathom::text
