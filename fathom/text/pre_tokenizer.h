// The pre-tokenizer of a tokenizer.json: cuts a text into the pieces inside which tokens are
// merged.
//
// Threads: immutable; a State belongs to one thread at a time.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fathom/base/json.h"
#include "fathom/base/result.h"
#include "fathom/text/regex.h"

namespace fathom::text {

// What becomes of the matches of a split.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

class PreTokenizer {
 public:
  struct Split {
    Regex pattern;
    SplitBehavior behavior = SplitBehavior::isolated;
    bool invert = false;  // what does not match counts as the match
  };
  // Puts a space before a piece that begins with none.
  struct PrefixSpace {};
  // Spaces become `replacement`; one is put in front as prepend says.
  struct Metaspace {
    enum class Prepend { always, first, never };  // first: at the start of the whole text
    std::string replacement;
    Prepend prepend = Prepend::always;
    bool split = true;
  };
  using Step = std::variant<Split, PrefixSpace, Metaspace>;

  // Working memory for one PreTokenizer.
  class State {
   public:
    explicit State(const PreTokenizer& pre_tokenizer);

   private:
    friend class PreTokenizer;
    struct Segment {
      size_t begin, end;
      bool is_match;
    };
    struct OfStep {
      std::vector<Regex::MatchState> match;  // one, or none where the step has no pattern
      std::string text;                      // what the step made of its piece
      std::vector<Segment> segments;
    };
    std::vector<OfStep> steps_;
  };

  // Receives the pieces in order; they are valid during the call.
  struct Sink {
    void (*call)(void* context, std::string_view piece);
    void* context;
  };

  PreTokenizer() = default;
  PreTokenizer(std::vector<Step> steps, bool byte_level)
      : steps_(std::move(steps)), byte_level_(byte_level) {}

  // From the "pre_tokenizer" of a tokenizer.json; null leaves a text in one piece.
  static Result<PreTokenizer> from_json(const Json& json);

  // The model's alphabet is bytes in GPT-2's spelling.
  bool byte_level() const { return byte_level_; }

  // `text` must be valid UTF-8. at_start: it begins the whole text.
  void split(std::string_view text, bool at_start, State& state, Sink sink) const;

 private:
  void run(size_t step, std::string_view piece, bool at_start, State& state, Sink sink) const;
  void run_split(
      const Split& split,
      size_t step,
      std::string_view piece,
      bool at_start,
      State& state,
      Sink sink
  ) const;
  void run_isolated(
      const Regex& pattern,
      size_t step,
      std::string_view piece,
      bool at_start,
      State& state,
      Sink sink
  ) const;
  void run_metaspace(
      const Metaspace& metaspace,
      size_t step,
      std::string_view piece,
      bool at_start,
      State& state,
      Sink sink
  ) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace fathom::text
