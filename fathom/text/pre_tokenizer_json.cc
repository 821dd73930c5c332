// Reads the "pre_tokenizer" section of a tokenizer.json.
#include <optional>

#include "fathom/text/json_fields.h"
#include "fathom/text/pre_tokenizer.h"
#include "fathom/text/split_patterns.h"

namespace fathom::text {
namespace {

constexpr std::string_view kSupported =
    "ByteLevel, Split, Digits, Metaspace, Punctuation, Whitespace, WhitespaceSplit, "
    "CharDelimiterSplit, Sequence";

std::optional<SplitBehavior> behavior_of(std::string_view name) {
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  return std::nullopt;
}

using Steps = std::vector<PreTokenizer::Step>;

Result<void> add_regex(std::string_view regex, SplitBehavior behavior, bool invert, Steps& steps) {
  Result<Regex> pattern = Regex::compile(regex);
  if (!pattern) return pattern.error();
  steps.emplace_back(PreTokenizer::Split{std::move(*pattern), behavior, invert});
  return {};
}

Result<SplitBehavior> parse_behavior(const Json& json) {
  const std::string name = string_field(json, "behavior", "Isolated");
  const std::optional<SplitBehavior> behavior = behavior_of(name);
  if (behavior) return *behavior;
  return error(
      "tokenizer.json: split behavior \"{}\" is not supported (Removed, Isolated, "
      "MergedWithPrevious, MergedWithNext, Contiguous)",
      name
  );
}

Result<void> add_split(const Json& json, Steps& steps) {
  Result<SplitBehavior> behavior = parse_behavior(json);
  if (!behavior) return behavior.error();
  Result<SplitPattern> pattern = parse_pattern(json, "pre-tokenizer Split");
  if (!pattern) return pattern.error();
  const bool invert = bool_field(json, "invert", false);
  if (!pattern->regex.empty()) return add_regex(pattern->regex, *behavior, invert, steps);
  steps.emplace_back(PreTokenizer::Split{Regex::literal(pattern->literal), *behavior, invert});
  return {};
}

Result<void> add_metaspace(const Json& json, Steps& steps) {
  PreTokenizer::Metaspace metaspace;
  metaspace.replacement = string_field(json, "replacement", "▁");
  metaspace.split = bool_field(json, "split", true);
  const bool prefix = bool_field(json, "add_prefix_space", true);
  const std::string scheme = string_field(json, "prepend_scheme", prefix ? "always" : "never");
  using Prepend = PreTokenizer::Metaspace::Prepend;
  if (scheme == "always") {
    metaspace.prepend = Prepend::always;
  } else if (scheme == "first") {
    metaspace.prepend = Prepend::first;
  } else if (scheme == "never") {
    metaspace.prepend = Prepend::never;
  } else {
    return error(
        "tokenizer.json: Metaspace prepend_scheme \"{}\" is not supported (always, first, never)",
        scheme
    );
  }
  if (metaspace.replacement.empty()) {
    return error("tokenizer.json: Metaspace replacement must not be empty");
  }
  steps.emplace_back(std::move(metaspace));
  return {};
}

Result<void> add_punctuation(const Json& json, Steps& steps) {
  Result<SplitBehavior> behavior = parse_behavior(json);
  if (!behavior) return behavior.error();
  return add_regex(R"([\p{P}$+<=>^`|~])", *behavior, false, steps);
}

Result<void> add_delimiter(const Json& json, Steps& steps) {
  const std::string delimiter = string_field(json, "delimiter", "");
  if (delimiter.empty()) return error("tokenizer.json: CharDelimiterSplit without a delimiter");
  steps.emplace_back(PreTokenizer::Split{Regex::literal(delimiter), SplitBehavior::removed, false});
  return {};
}

Result<void> add_step(const Json& json, std::string_view type, Steps& steps) {
  if (type == "Split") return add_split(json, steps);
  if (type == "Metaspace") return add_metaspace(json, steps);
  if (type == "Punctuation") return add_punctuation(json, steps);
  if (type == "CharDelimiterSplit") return add_delimiter(json, steps);
  if (type == "Digits") {
    const bool individual = bool_field(json, "individual_digits", false);
    return add_regex(individual ? R"(\p{N})" : R"(\p{N}+)", SplitBehavior::isolated, false, steps);
  }
  if (type == "Whitespace") {
    return add_regex(kWordOrSymbols, SplitBehavior::removed, true, steps);
  }
  if (type == "WhitespaceSplit") {
    return add_regex(R"(\s)", SplitBehavior::removed, false, steps);
  }
  return error("tokenizer.json: pre-tokenizer \"{}\" is not supported ({})", type, kSupported);
}

Result<void> add_byte_level(const Json& json, Steps& steps) {
  if (bool_field(json, "add_prefix_space", true)) steps.emplace_back(PreTokenizer::PrefixSpace{});
  if (!bool_field(json, "use_regex", true)) return {};
  return add_regex(kGpt2Split, SplitBehavior::isolated, false, steps);
}

}  // namespace

Result<PreTokenizer> PreTokenizer::from_json(const Json& json) {
  Result<std::vector<const Json*>> components = flatten_sequence(json, "pretokenizers");
  if (!components) return components.error();
  std::vector<Step> steps;
  bool byte_level = false;
  for (const Json* component : *components) {
    const std::string type = string_field(*component, "type", "");
    if (byte_level) {
      return error(
          "tokenizer.json: pre-tokenizer \"{}\" after ByteLevel is not supported: ByteLevel must "
          "be "
          "the last",
          type
      );
    }
    byte_level = type == "ByteLevel";
    Result<void> added =
        byte_level ? add_byte_level(*component, steps) : add_step(*component, type, steps);
    if (!added) return added.error();
  }
  return PreTokenizer(std::move(steps), byte_level);
}

}  // namespace fathom::text
