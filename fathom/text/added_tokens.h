// Added tokens: strings that are cut out of a text before any splitting or merging, because each is
// one token ("<|im_end|>").
//
// The rules are those of the `tokenizers` package: leftmost, then longest match; lstrip and rstrip
// take the white space beside the token; single_word refuses a match inside a word.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/plan/request.h"

namespace fathom::text {

using plan::Token;

struct AddedToken {
  std::string content;
  Token id = -1;
  bool special = false;
  bool normalized = false;  // matched in the normalized text, not in the text as given
  bool lstrip = false;
  bool rstrip = false;
  bool single_word = false;
};

// A part of a text: an added token's id, or -1 for text that goes on through the pipeline.
struct TextPart {
  Token id;
  std::string_view text;
};

class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  // Tokens without content are ignored; of equal contents the last wins.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }

  // Appends the parts of `text` in order; none is empty. `parse_special` false: the spelling of a
  // special token is text.
  void split(std::string_view text, bool parse_special, std::vector<TextPart>& parts) const;

 private:
  struct Edge {
    uint8_t byte;
    int node;
  };
  struct Node {
    std::vector<Edge> edges;
    int token = -1;  // index of the token that ends here
  };
  struct Hit {
    size_t begin, end;
    int token;
  };

  int child(int node, uint8_t byte) const;
  void insert(int token);
  bool next_hit(std::string_view text, size_t from, Hit& hit) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;      // a trie; 0 is the root
  std::vector<int> first_ = {};  // root's child by byte, -1: none
};

}  // namespace fathom::text
