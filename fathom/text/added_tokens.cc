#include "fathom/text/added_tokens.h"

#include <algorithm>

#include "fathom/text/unicode.h"
#include "fathom/text/utf8.h"

namespace fathom::text {
namespace {

bool begins_with_word(std::string_view text) {
  return !text.empty() && is_word(code_point_at(text, 0).value);
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && is_word(code_point_at(text, last_code_point(text)).value);
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  if (tokens_.empty()) return;
  nodes_.emplace_back();
  for (size_t i = 0; i < tokens_.size(); ++i) insert(static_cast<int>(i));
  first_.assign(256, -1);
  for (const Edge& edge : nodes_[0].edges) first_[edge.byte] = edge.node;
}

int AddedTokenMatcher::child(int node, uint8_t byte) const {
  for (const Edge& edge : nodes_[node].edges) {
    if (edge.byte == byte) return edge.node;
  }
  return -1;
}

void AddedTokenMatcher::insert(int token) {
  int node = 0;
  for (const char c : tokens_[token].content) {
    const uint8_t byte = static_cast<uint8_t>(c);
    int next = child(node, byte);
    if (next < 0) {
      next = static_cast<int>(nodes_.size());
      nodes_[node].edges.push_back({byte, next});
      nodes_.emplace_back();
    }
    node = next;
  }
  nodes_[node].token = token;
}

bool AddedTokenMatcher::next_hit(std::string_view text, size_t from, Hit& hit) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    int node = first_[static_cast<uint8_t>(text[begin])];
    hit.token = -1;
    for (size_t at = begin + 1; node >= 0; ++at) {
      if (nodes_[node].token >= 0) hit = {begin, at, nodes_[node].token};
      if (at == text.size()) break;
      node = child(node, static_cast<uint8_t>(text[at]));
    }
    if (hit.token >= 0) return true;
  }
  return false;
}

void AddedTokenMatcher::split(
    std::string_view text, bool parse_special, std::vector<TextPart>& parts
) const {
  size_t done = 0;
  Hit hit{0, 0, -1};
  for (size_t from = 0; !empty() && next_hit(text, from, hit);) {
    from = hit.end;
    const AddedToken& token = tokens_[hit.token];
    if (token.special && !parse_special) continue;
    if (token.single_word &&
        (ends_with_word(text.substr(0, hit.begin)) || begins_with_word(text.substr(hit.end)))) {
      continue;
    }
    // White space that an earlier token took stays with it.
    size_t begin = hit.begin;
    if (token.lstrip) begin = std::max(done, trimmed_right(text.substr(0, begin)).size());
    size_t end = hit.end;
    if (token.rstrip) end = text.size() - trimmed_left(text.substr(end)).size();
    if (done < begin) parts.push_back({-1, text.substr(done, begin - done)});
    parts.push_back({token.id, text.substr(hit.begin, hit.end - hit.begin)});
    done = end;
  }
  if (done < text.size()) parts.push_back({-1, text.substr(done)});
}

}  // namespace fathom::text
