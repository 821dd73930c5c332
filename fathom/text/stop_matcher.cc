#include "fathom/text/stop_matcher.h"

#include <algorithm>

namespace fathom::text {

StopMatcher::StopMatcher(const std::vector<std::string>& stops, bool include_stop)
    : include_stop_(include_stop) {
  for (const std::string& text : stops) {
    if (text.empty()) continue;
    Stop& stop = stops_.emplace_back();
    stop.text = text;
    stop.fallback.assign(text.size() + 1, 0);
    for (size_t i = 1, border = 0; i < text.size(); ++i) {
      while (border > 0 && text[i] != text[border]) border = stop.fallback[border];
      if (text[i] == text[border]) ++border;
      stop.fallback[i + 1] = static_cast<int>(border);
    }
  }
}

int StopMatcher::advance(char byte) {
  int found = -1;
  for (size_t i = 0; i < stops_.size(); ++i) {
    Stop& stop = stops_[i];
    while (stop.matched > 0 && stop.text[stop.matched] != byte) {
      stop.matched = stop.fallback[stop.matched];
    }
    if (stop.text[stop.matched] == byte) ++stop.matched;
    const bool complete = static_cast<size_t>(stop.matched) == stop.text.size();
    if (complete && (found < 0 || stop.text.size() > stops_[found].text.size())) {
      found = static_cast<int>(i);
    }
  }
  return found;
}

void StopMatcher::add(std::string_view piece, std::string& text) {
  if (stopped_) return;
  for (size_t i = 0; i < piece.size(); ++i) {
    const int found = advance(piece[i]);
    if (found < 0) continue;
    held_ += piece.substr(0, i + 1);
    stopped_ = true;
    matched_ = stops_[found].text;
    stop_offset_ = fed_ + i + 1 - matched_.size();
    if (!include_stop_) held_.resize(held_.size() - matched_.size());
    text += held_;
    held_.clear();
    return;
  }
  fed_ += piece.size();
  held_ += piece;
  size_t keep = 0;
  for (const Stop& stop : stops_) keep = std::max(keep, static_cast<size_t>(stop.matched));
  text.append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
}

std::string StopMatcher::add(std::string_view piece) {
  std::string text;
  add(piece, text);
  return text;
}

void StopMatcher::finish(std::string& text) {
  text += held_;
  held_.clear();
}

}  // namespace fathom::text
