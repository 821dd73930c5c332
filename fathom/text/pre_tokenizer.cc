#include "fathom/text/pre_tokenizer.h"

#include <algorithm>

#include "fathom/text/utf8.h"

namespace fathom::text {
namespace {

// Walks the matches of `pattern` in `piece`: f(begin, end, is_match) for every match and every
// stretch between, in order; empty ones are left out.
template <class F>
void for_each_segment(const Regex& pattern, std::string_view piece, Regex::MatchState& state, F f) {
  size_t done = 0;
  Regex::Match match;
  for (size_t from = 0; from < piece.size() && pattern.find(piece, from, state, match);) {
    if (done < match.begin) f(done, match.begin, false);
    if (match.begin < match.end) f(match.begin, match.end, true);
    done = from = match.end;
    if (match.begin == match.end && from < piece.size()) {
      from += static_cast<size_t>(code_point_at(piece, from).bytes);
    }
  }
  if (done < piece.size()) f(done, piece.size(), false);
}

}  // namespace

PreTokenizer::State::State(const PreTokenizer& pre_tokenizer) {
  for (const Step& step : pre_tokenizer.steps_) {
    OfStep& of_step = steps_.emplace_back();
    if (const Split* split = std::get_if<Split>(&step)) of_step.match.emplace_back(split->pattern);
  }
}

void PreTokenizer::split(std::string_view text, bool at_start, State& state, Sink sink) const {
  if (!text.empty()) run(0, text, at_start, state, sink);
}

// Depth first: a piece goes through all later steps before the next piece is cut, so that pieces
// stay in the first-level cache and need no list.
void PreTokenizer::run(size_t step, std::string_view piece, bool at_start, State& state, Sink sink)
    const {
  if (step == steps_.size()) return sink.call(sink.context, piece);
  if (const Split* split = std::get_if<Split>(&steps_[step])) {
    run_split(*split, step, piece, at_start, state, sink);
  } else if (const Metaspace* metaspace = std::get_if<Metaspace>(&steps_[step])) {
    run_metaspace(*metaspace, step, piece, at_start, state, sink);
  } else if (piece.front() == ' ') {
    run(step + 1, piece, at_start, state, sink);
  } else {
    std::string& text = state.steps_[step].text;
    text.assign(" ").append(piece);
    run(step + 1, text, at_start, state, sink);
  }
}

void PreTokenizer::run_isolated(
    const Regex& pattern,
    size_t step,
    std::string_view piece,
    bool at_start,
    State& state,
    Sink sink
) const {
  Regex::MatchState& match = state.steps_[step].match.front();
  for_each_segment(pattern, piece, match, [&](size_t begin, size_t end, bool) {
    run(step + 1, piece.substr(begin, end - begin), at_start && begin == 0, state, sink);
  });
}

void PreTokenizer::run_split(
    const Split& split, size_t step, std::string_view piece, bool at_start, State& state, Sink sink
) const {
  if (split.behavior == SplitBehavior::isolated) {
    return run_isolated(split.pattern, step, piece, at_start, state, sink);
  }
  auto& segments = state.steps_[step].segments;
  segments.clear();
  Regex::MatchState& match = state.steps_[step].match.front();
  bool previous = false;
  for_each_segment(split.pattern, piece, match, [&](size_t begin, size_t end, bool is_match) {
    is_match ^= split.invert;
    const bool joins =
        !segments.empty() &&
        ((split.behavior == SplitBehavior::merged_with_previous && is_match && !previous) ||
         (split.behavior == SplitBehavior::merged_with_next && previous && !is_match) ||
         (split.behavior == SplitBehavior::contiguous && previous == is_match));
    previous = is_match;
    if (split.behavior == SplitBehavior::removed && is_match) return;
    if (joins) {
      segments.back().end = end;
    } else {
      segments.push_back({begin, end, is_match});
    }
  });
  for (size_t i = 0; i < segments.size(); ++i) {
    const auto [begin, end, is_match] = segments[i];
    run(step + 1, piece.substr(begin, end - begin), at_start && begin == 0, state, sink);
  }
}

void PreTokenizer::run_metaspace(
    const Metaspace& metaspace,
    size_t step,
    std::string_view piece,
    bool at_start,
    State& state,
    Sink sink
) const {
  using Prepend = Metaspace::Prepend;
  std::string& text = state.steps_[step].text;
  text.clear();
  const bool wanted =
      metaspace.prepend == Prepend::always || (metaspace.prepend == Prepend::first && at_start);
  if (wanted && piece.front() != ' ' && !piece.starts_with(metaspace.replacement)) {
    text = metaspace.replacement;
  }
  size_t done = 0;
  for (size_t at; (at = piece.find(' ', done)) != piece.npos; done = at + 1) {
    text.append(piece.substr(done, at - done)).append(metaspace.replacement);
  }
  text.append(piece.substr(done));
  if (!metaspace.split) return run(step + 1, text, at_start, state, sink);
  // Each piece begins with its replacement, and so does each of several in a row.
  size_t begin = 0;
  const std::string_view view = text;
  while (begin < view.size()) {
    const size_t next = view.find(metaspace.replacement, begin + 1);
    const size_t end = std::min(next, view.size());
    run(step + 1, view.substr(begin, end - begin), at_start && begin == 0, state, sink);
    begin = end;
  }
}

}  // namespace fathom::text
