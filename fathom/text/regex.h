// A compiled regular expression of a tokenizer, through PCRE2 with JIT. Tokenizer files are written
// for Oniguruma with Unicode properties; compile() brings the few differences over (\s is Unicode's
// White_Space) and refuses what cannot be (class intersection).
//
// Threads: a Regex is immutable; a MatchState belongs to one thread at a time.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "fathom/base/result.h"

namespace fathom::text {

class Regex {
 public:
  // The working memory of matching one Regex.
  class MatchState {
   public:
    explicit MatchState(const Regex& regex);

   private:
    friend class Regex;
    struct Free {
      void operator()(void* data) const;
    };
    std::unique_ptr<void, Free> data_;
  };

  struct Match {
    size_t begin = 0, end = 0;
  };

  static Result<Regex> compile(std::string_view pattern);
  // Matches exactly `text`.
  static Regex literal(std::string_view text);

  // The first match in `text` that begins at or after `from`. `text` must be valid UTF-8 and `from`
  // a border of its characters. False when there is none, and when the pattern exceeds the limit of
  // backtracking: a tokenizer then goes on as if nothing matched.
  bool find(std::string_view text, size_t from, MatchState& state, Match& match) const;

 private:
  struct Free {
    void operator()(void* code) const;
  };
  explicit Regex(void* code) : code_(code) {}
  std::unique_ptr<void, Free> code_;
};

}  // namespace fathom::text
