// Finds stop strings in streamed text, also across the borders of its pieces, and holds back what
// may yet become one.
//
// The match that is complete first wins, that is, the one with the earliest end; of several with
// one end, the longest. So the result does not depend on how the text is cut into pieces.
//
// Threads: one owner.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::text {

class StopMatcher {
 public:
  // Empty strings are ignored. include_stop: the match itself is emitted too.
  explicit StopMatcher(const std::vector<std::string>& stops, bool include_stop = false);

  // Appends to `text` what may be shown after `piece`. Pieces and stops of whole UTF-8 sequences
  // give whole UTF-8 sequences. After a stop nothing more is emitted.
  void add(std::string_view piece, std::string& text);
  std::string add(std::string_view piece);

  // The output ended without a stop: appends what was held back.
  void finish(std::string& text);

  bool stopped() const { return stopped_; }
  // The stop string found, "" before that.
  const std::string& matched() const { return matched_; }
  // Bytes of text before the match; what was fed after the match is not counted.
  size_t stop_offset() const { return stop_offset_; }
  size_t held_bytes() const { return held_.size(); }

 private:
  // Knuth, Morris, Pratt: fallback[i] is the length of the longest proper border of the first i
  // bytes.
  struct Stop {
    std::string text;
    std::vector<int> fallback;
    int matched = 0;  // length of its longest prefix that the text so far ends in
  };

  // The index of the stop that ends with this byte, -1 when none.
  int advance(char byte);

  std::vector<Stop> stops_;
  bool include_stop_;
  bool stopped_ = false;
  std::string matched_;
  size_t stop_offset_ = 0;
  size_t fed_ = 0;    // bytes so far
  std::string held_;  // the tail of the text that may begin a stop
};

}  // namespace fathom::text
