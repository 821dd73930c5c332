#include "fathom/text/bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "fathom/base/check.h"
#include "fathom/text/byte_level.h"
#include "fathom/text/utf8.h"

namespace fathom::text {
namespace {

constexpr std::string_view kSpaceMark = "▁";
constexpr size_t kShortWord = 48;  // symbols up to which scanning all pairs beats a heap

uint64_t pair_key(Token left, Token right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

size_t hash_pair(uint64_t pair) {
  pair *= 0x9E3779B97F4A7C15u;  // 2^64 over the golden ratio
  return static_cast<size_t>(pair ^ pair >> 32);
}

// Where, after the first byte, a "▁" follows something else; npos when nowhere.
size_t find_border(std::string_view text, size_t from) {
  while (true) {
    const size_t at = text.find(kSpaceMark, from);
    if (at == text.npos) return at;
    if (at > 0 && !text.substr(0, at).ends_with(kSpaceMark)) return at;
    from = at + kSpaceMark.size();
  }
}

}  // namespace

Bpe::Bpe(const BpeModel& model)
    : byte_level_(model.byte_level),
      byte_fallback_(model.byte_fallback),
      ignore_merges_(model.ignore_merges),
      fuse_unknown_(model.fuse_unknown),
      unknown_id_(model.unknown_id) {
  build_merges(model.merges);
  build_symbols(model);
  if (!byte_level_) find_borders(model);
}

void Bpe::build_merges(const std::vector<Merge>& merges) {
  merges_.resize(std::bit_ceil(merges.size() * 2 + 1));
  mask_ = merges_.size() - 1;
  for (const Merge& merge : merges) {
    const uint64_t pair = pair_key(merge.left, merge.right);
    size_t slot = hash_pair(pair) & mask_;
    while (merges_[slot].pair != kFree && merges_[slot].pair != pair) slot = (slot + 1) & mask_;
    merges_[slot] = {pair, merge.rank, merge.merged};
  }
}

void Bpe::build_symbols(const BpeModel& model) {
  byte_ids_.fill(-1);
  const TokenTable table(model.tokens);
  for (int byte = 0; byte < 256; ++byte) {
    std::string spelling;
    if (byte_level_) {
      append_utf8(byte_level_character(static_cast<uint8_t>(byte)), spelling);
    } else {
      spelling = fmt::format("<0x{:02X}>", byte);
    }
    byte_ids_[byte] = table.find(spelling);
  }
  if (!byte_level_) {
    // All 256 or none: a character falls back only when each of its bytes has a token, and files
    // have them all.
    std::vector<std::string> characters(model.tokens.size());
    for (size_t id = 0; id < model.tokens.size(); ++id) {
      const std::string& token = model.tokens[id];
      if (!token.empty() && static_cast<size_t>(code_point_at(token, 0).bytes) == token.size()) {
        characters[id] = token;
      }
    }
    characters_ = TokenTable(characters);
    if (ignore_merges_) whole_ = TokenTable(model.tokens);
    return;
  }
  if (!ignore_merges_) return;
  std::vector<std::string> whole(model.tokens.size());
  for (size_t id = 0; id < whole.size(); ++id) {
    whole[id] = byte_level_bytes(model.tokens[id]).value_or("");
  }
  whole_ = TokenTable(whole);
}

void Bpe::find_borders(const BpeModel& model) {
  splits_at_space_ = !ignore_merges_ && characters_.find(kSpaceMark) >= 0;
  for (const Merge& merge : model.merges) {
    if (find_border(model.tokens[merge.merged], 0) != std::string::npos) splits_at_space_ = false;
  }
}

const Bpe::Slot* Bpe::find_merge(Token left, Token right) const {
  const uint64_t pair = pair_key(left, right);
  for (size_t slot = hash_pair(pair) & mask_; merges_[slot].pair != kFree;
       slot = (slot + 1) & mask_) {
    if (merges_[slot].pair == pair) return &merges_[slot];
  }
  return nullptr;
}

int Bpe::rank_of(Token left, Token right) const {
  const Slot* slot = find_merge(left, right);
  return slot == nullptr ? kNoRank : slot->rank;
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<Token>& tokens) const {
  if (!splits_at_space_) return encode_word(piece, scratch, tokens);
  while (!piece.empty()) {
    const size_t end = std::min(find_border(piece, 1), piece.size());
    encode_word(piece.substr(0, end), scratch, tokens);
    piece.remove_prefix(end);
  }
}

void Bpe::encode_word(std::string_view word, Scratch& scratch, std::vector<Token>& tokens) const {
  if (ignore_merges_) {
    const Token whole = whole_.find(word);
    if (whole >= 0) return tokens.push_back(whole);
  }
  if (word.size() > Scratch::kCachedBytes) {
    merge_word(word, scratch);
    tokens.insert(tokens.end(), scratch.symbols_.begin(), scratch.symbols_.end());
    return;
  }
  auto& entry = scratch.cache_[hash_bytes(word) % Scratch::kCacheEntries];
  if (entry.bytes == word.size() && std::memcmp(entry.piece, word.data(), word.size()) == 0) {
    tokens.insert(tokens.end(), entry.ids, entry.ids + entry.tokens);
    return;
  }
  merge_word(word, scratch);
  const std::vector<Token>& symbols = scratch.symbols_;
  tokens.insert(tokens.end(), symbols.begin(), symbols.end());
  if (symbols.size() > Scratch::kCachedTokens) return;
  entry.bytes = static_cast<uint8_t>(word.size());
  entry.tokens = static_cast<uint8_t>(symbols.size());
  std::memcpy(entry.piece, word.data(), word.size());
  std::copy(symbols.begin(), symbols.end(), entry.ids);
}

void Bpe::merge_word(std::string_view word, Scratch& scratch) const {
  scratch.symbols_.clear();
  to_symbols(word, scratch.symbols_);
  if (scratch.symbols_.size() < 2) return;
  if (scratch.symbols_.size() <= kShortWord) {
    merge_short(scratch);
  } else {
    merge_long(scratch);
  }
}

void Bpe::to_symbols(std::string_view word, std::vector<Token>& symbols) const {
  if (!byte_level_) return characters_to_symbols(word, symbols);
  bool after_unknown = false;
  for (const char c : word) {
    const Token id = byte_ids_[static_cast<uint8_t>(c)];
    if (id >= 0) {
      symbols.push_back(id);
    } else if (unknown_id_ >= 0 && !(fuse_unknown_ && after_unknown)) {
      symbols.push_back(unknown_id_);
    }
    after_unknown = id < 0;
  }
}

// An unknown token is put out at the next known character, behind bytes that fell back in between:
// the order that the `tokenizers` package gives.
void Bpe::characters_to_symbols(std::string_view word, std::vector<Token>& symbols) const {
  bool unknown = false;
  for (size_t at = 0; at < word.size();) {
    const std::string_view character =
        word.substr(at, static_cast<size_t>(code_point_at(word, at).bytes));
    at += character.size();
    const Token id = characters_.find(character);
    if (id >= 0) {
      if (unknown) symbols.push_back(unknown_id_);
      unknown = false;
      symbols.push_back(id);
      continue;
    }
    const auto has_token = [&](char c) { return byte_ids_[static_cast<uint8_t>(c)] >= 0; };
    if (byte_fallback_ && std::all_of(character.begin(), character.end(), has_token)) {
      for (const char c : character) symbols.push_back(byte_ids_[static_cast<uint8_t>(c)]);
    } else if (unknown_id_ >= 0) {
      if (unknown && !fuse_unknown_) symbols.push_back(unknown_id_);
      unknown = true;
    }
  }
  if (unknown) symbols.push_back(unknown_id_);
}

void Bpe::merge_short(Scratch& scratch) const {
  std::vector<Token>& symbols = scratch.symbols_;
  std::vector<int>& ranks = scratch.ranks_;  // of the pair that begins at each symbol
  ranks.resize(symbols.size());
  size_t count = symbols.size();
  for (size_t i = 0; i + 1 < count; ++i) ranks[i] = rank_of(symbols[i], symbols[i + 1]);
  ranks[count - 1] = kNoRank;
  while (true) {
    const size_t best = static_cast<size_t>(
        std::min_element(ranks.begin(), ranks.begin() + static_cast<long>(count)) - ranks.begin()
    );
    if (ranks[best] == kNoRank) break;
    symbols[best] = find_merge(symbols[best], symbols[best + 1])->merged;
    const auto close_gap = [&](auto* values) {
      std::copy(values + best + 2, values + count, values + best + 1);
    };
    close_gap(symbols.data());
    close_gap(ranks.data());
    --count;
    ranks[best] = best + 1 < count ? rank_of(symbols[best], symbols[best + 1]) : kNoRank;
    if (best > 0) ranks[best - 1] = rank_of(symbols[best - 1], symbols[best]);
  }
  symbols.resize(count);
}

void Bpe::push_candidate(int position, Scratch& scratch) const {
  const int next = scratch.next_[position];
  if (next < 0) return;
  const Token left = scratch.symbols_[position];
  const Token right = scratch.symbols_[next];
  const int rank = rank_of(left, right);
  if (rank == kNoRank) return;
  scratch.heap_.push_back({rank, position, left, right});
}

// A heap of candidate pairs over a linked list of symbols: n log n for pieces of any length. A
// candidate is stale when its symbols have changed since.
void Bpe::merge_long(Scratch& scratch) const {
  std::vector<Token>& symbols = scratch.symbols_;
  std::vector<int>& next = scratch.next_;
  std::vector<int>& previous = scratch.previous_;
  const int count = static_cast<int>(symbols.size());
  next.resize(symbols.size());
  previous.resize(symbols.size());
  for (int i = 0; i < count; ++i) {
    next[i] = i + 1 < count ? i + 1 : -1;
    previous[i] = i - 1;
  }
  auto& heap = scratch.heap_;
  heap.clear();
  for (int i = 0; i < count; ++i) push_candidate(i, scratch);
  const auto later = [](const Scratch::Candidate& a, const Scratch::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    const int position = best.position;
    const int right = next[position];
    if (symbols[position] != best.left || right < 0 || symbols[right] != best.right) continue;
    symbols[position] = find_merge(best.left, best.right)->merged;
    symbols[right] = -1;
    next[position] = next[right];
    if (next[right] >= 0) previous[next[right]] = position;
    for (const int changed : {position, previous[position]}) {
      if (changed < 0) continue;
      const size_t before = heap.size();
      push_candidate(changed, scratch);
      if (heap.size() > before) std::push_heap(heap.begin(), heap.end(), later);
    }
  }
  std::erase(symbols, -1);
}

}  // namespace fathom::text
