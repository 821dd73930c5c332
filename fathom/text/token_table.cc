#include "fathom/text/token_table.h"

#include <bit>
#include <cstring>

#include "fathom/base/check.h"

namespace fathom::text {

uint64_t hash_bytes(std::string_view bytes) {
  constexpr uint64_t kOdd = 0x9E3779B97F4A7C15u;  // 2^64 over the golden ratio
  uint64_t hash = bytes.size() * kOdd;
  const auto mix = [&](uint64_t word) {
    const unsigned __int128 product =
        static_cast<unsigned __int128>(hash ^ word) * 0xD6E8FEB86659FD93u;
    hash = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64) ^ kOdd;
  };
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    mix(word);
  }
  uint64_t word = 0;
  std::memcpy(&word, bytes.data() + at, bytes.size() - at);
  mix(word);
  return hash;
}

TokenTable::TokenTable(const std::vector<std::string>& strings) {
  size_t bytes = 0;
  for (const std::string& string : strings) bytes += string.size();
  CHECK(bytes < UINT32_MAX, "vocabulary of {} bytes", bytes);
  bytes_.reserve(bytes);
  ends_.reserve(strings.size());
  slots_.assign(std::bit_ceil(strings.size() * 2 + 1), -1);
  mask_ = slots_.size() - 1;
  for (size_t id = 0; id < strings.size(); ++id) {
    bytes_ += strings[id];
    ends_.push_back(static_cast<uint32_t>(bytes_.size()));
    if (strings[id].empty()) continue;
    size_t slot = hash_bytes(strings[id]) & mask_;
    while (slots_[slot] >= 0 && (*this)[slots_[slot]] != strings[id]) slot = (slot + 1) & mask_;
    if (slots_[slot] < 0) slots_[slot] = static_cast<Token>(id);
  }
}

Token TokenTable::find(std::string_view string) const {
  if (slots_.empty() || string.empty()) return -1;
  size_t slot = hash_bytes(string) & mask_;
  while (slots_[slot] >= 0 && (*this)[slots_[slot]] != string) slot = (slot + 1) & mask_;
  return slots_[slot];
}

}  // namespace fathom::text
