// Byte pair encoding: the symbols of a piece are merged pair by pair, the best-ranked pair first
// and the leftmost of equals, until no pair has a rank.
//
// Threads: immutable; a Scratch belongs to one thread at a time.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/base/result.h"
#include "fathom/text/token_table.h"

namespace fathom::text {

struct Merge {
  Token left, right;  // next to each other,
  Token merged;       // become this,
  int rank;           // the lower the earlier
};

// What a Bpe is made of. Ids index `tokens`, which is by the file's spelling.
struct BpeModel {
  std::vector<std::string> tokens;  // "" where an id has none
  std::vector<Merge> merges;        // of equal pairs the last counts
  bool byte_level = false;          // pieces are bytes, tokens in GPT-2's spelling; else characters
  bool byte_fallback = false;       // a character without a token becomes its <0xXX> tokens
  bool ignore_merges = false;       // a piece that is a token is taken whole
  bool fuse_unknown = false;        // unknown characters in a row are one unknown token
  Token unknown_id = -1;            // -1: unknown characters are dropped
};

class Bpe {
 public:
  class Scratch {
   public:
    Scratch() : cache_(kCacheEntries) {}

   private:
    friend class Bpe;
    static constexpr size_t kCacheEntries = 1 << 14;
    static constexpr size_t kCachedBytes = 30;
    static constexpr size_t kCachedTokens = 8;
    // One cache line: a short piece and its tokens.
    struct alignas(64) CacheEntry {
      uint8_t bytes = 0;  // 0: free
      uint8_t tokens = 0;
      char piece[kCachedBytes];
      Token ids[kCachedTokens];
    };
    struct Candidate {  // a pair that may be merged, in the heap of a long piece
      int rank;
      int position;
      Token left, right;
    };
    std::vector<CacheEntry> cache_;
    std::vector<Token> symbols_;
    std::vector<int> ranks_;
    std::vector<int> next_, previous_;
    std::vector<Candidate> heap_;
  };

  explicit Bpe(const BpeModel& model);

  // Appends the tokens of one piece, which is valid UTF-8 and not empty.
  void encode(std::string_view piece, Scratch& scratch, std::vector<Token>& tokens) const;

 private:
  struct Slot {
    uint64_t pair = kFree;
    int rank = 0;
    Token merged = 0;
  };
  static constexpr uint64_t kFree = ~uint64_t{0};
  static constexpr int kNoRank = INT32_MAX;

  const Slot* find_merge(Token left, Token right) const;
  int rank_of(Token left, Token right) const;
  void build_merges(const std::vector<Merge>& merges);
  void build_symbols(const BpeModel& model);
  void find_borders(const BpeModel& model);

  void encode_word(std::string_view word, Scratch& scratch, std::vector<Token>& tokens) const;
  void merge_word(std::string_view word, Scratch& scratch) const;
  void to_symbols(std::string_view word, std::vector<Token>& symbols) const;
  void characters_to_symbols(std::string_view word, std::vector<Token>& symbols) const;
  void merge_short(Scratch& scratch) const;
  void merge_long(Scratch& scratch) const;
  void push_candidate(int position, Scratch& scratch) const;

  std::vector<Slot> merges_;  // open addressing
  size_t mask_ = 0;
  std::array<Token, 256> byte_ids_{};  // of bytes (byte level) or of <0xXX>; -1: none
  TokenTable whole_;                   // pieces that are tokens, when ignore_merges
  TokenTable characters_;              // ids by character, when not byte level
  bool byte_level_;
  bool byte_fallback_;
  bool ignore_merges_;
  bool fuse_unknown_;
  bool splits_at_space_ = false;  // no merge crosses the border before a "▁" that follows another
  Token unknown_id_;
};

}  // namespace fathom::text
