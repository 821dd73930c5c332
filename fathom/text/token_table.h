// Strings by id and ids by string: the vocabulary's two directions, in one block of memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/plan/request.h"

namespace fathom::text {

using plan::Token;

class TokenTable {
 public:
  TokenTable() = default;
  // strings[id]; "" leaves an id without a string. Of equal strings find() gives the first id.
  explicit TokenTable(const std::vector<std::string>& strings);

  int size() const { return static_cast<int>(ends_.size()); }

  // "" for ids out of range. The view lives as long as the table.
  std::string_view operator[](Token id) const {
    if (id < 0 || id >= size()) return {};
    const uint32_t begin = id == 0 ? 0 : ends_[id - 1];
    return std::string_view(bytes_).substr(begin, ends_[id] - begin);
  }

  // -1 when no token has that string.
  Token find(std::string_view string) const;

 private:
  std::string bytes_;
  std::vector<uint32_t> ends_;
  std::vector<Token> slots_;  // open addressing; -1: free
  size_t mask_ = 0;
};

// A hash of short strings, good in its low bits.
uint64_t hash_bytes(std::string_view bytes);

}  // namespace fathom::text
