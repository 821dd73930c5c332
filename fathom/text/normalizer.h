// The normalizer of a tokenizer.json: text to text, before splitting.
//
// Threads: immutable.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fathom/base/json.h"
#include "fathom/base/result.h"
#include "fathom/text/regex.h"

namespace fathom::text {

class Normalizer {
 public:
  enum class Form { nfc, nfd, nfkc, nfkd };
  struct Lowercase {};
  struct StripAccents {};
  struct Strip {
    bool left, right;
  };
  struct Prepend {
    std::string text;
  };
  struct Replace {
    std::string literal;  // when pattern is absent
    std::optional<Regex> pattern;
    std::string content;
  };
  using Step = std::variant<Form, Lowercase, StripAccents, Strip, Prepend, Replace>;

  Normalizer() = default;
  explicit Normalizer(std::vector<Step> steps) : steps_(std::move(steps)) {}

  // From the "normalizer" of a tokenizer.json; null is the identity.
  static Result<Normalizer> from_json(const Json& json);

  bool empty() const { return steps_.empty(); }

  // The normal form of valid `text`: `text` itself when nothing changes, else a view of `buffer`.
  std::string_view apply(std::string_view text, std::string& buffer) const;

 private:
  std::vector<Step> steps_;
};

}  // namespace fathom::text
