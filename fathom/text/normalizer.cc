#include "fathom/text/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>

#include "fathom/text/json_fields.h"
#include "fathom/text/unicode.h"
#include "fathom/text/utf8.h"

namespace fathom::text {
namespace {

constexpr std::string_view kSupported =
    "NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend, Replace, Sequence";

// A character that no normal form changes and that changes none before it.
bool is_inert(char32_t c) {
  if (c >= 0x1160 && c <= 0x11FF) return false;  // vowels and tails of Hangul, which compose
  const utf8proc_property_t& property = *utf8proc_get_property(static_cast<int32_t>(c));
  const bool composes_backwards =
      property.comb_index != UINT16_MAX && property.comb_index >= 0x8000;
  return property.combining_class == 0 && property.decomp_seqindex == UINT16_MAX &&
         !composes_backwards;
}

// Texts of inert characters are their own normal form, and so is, in NFC, all below U+0300. This
// spares most text a slow pass.
bool is_trivially_normal(std::string_view text, Normalizer::Form form) {
  const bool composed = form == Normalizer::Form::nfc;
  const char32_t limit = composed ? 0x300 : 0x80;
  const bool hangul_is_normal = composed || form == Normalizer::Form::nfkc;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    at += static_cast<size_t>(c.bytes);
    if (c.value < limit) continue;
    const bool syllable = c.value >= 0xAC00 && c.value <= 0xD7A3;
    if ((syllable && !hangul_is_normal) || !is_inert(c.value)) return false;
  }
  return true;
}

std::string unicode_form(std::string_view text, Normalizer::Form form) {
  int options = UTF8PROC_STABLE;
  switch (form) {
    case Normalizer::Form::nfc:
      options |= UTF8PROC_COMPOSE;
      break;
    case Normalizer::Form::nfd:
      options |= UTF8PROC_DECOMPOSE;
      break;
    case Normalizer::Form::nfkc:
      options |= UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
      break;
    case Normalizer::Form::nfkd:
      options |= UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
      break;
  }
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t bytes = utf8proc_map(
      reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
      static_cast<utf8proc_ssize_t>(text.size()),
      &mapped,
      static_cast<utf8proc_option_t>(options)
  );
  CHECK(bytes >= 0, "utf8proc_map of {} valid bytes: {}", text.size(), utf8proc_errmsg(bytes));
  std::string normal(reinterpret_cast<const char*>(mapped), static_cast<size_t>(bytes));
  std::free(mapped);
  return normal;
}

// Calls f(code point) for each character and collects what it appends.
template <class F>
std::string map_characters(std::string_view text, F f) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    f(c.value, out);
    at += c.bytes;
  }
  return out;
}

std::string replaced(std::string_view text, const Normalizer::Replace& step) {
  std::string out;
  out.reserve(text.size() * 2);
  if (!step.pattern) {
    size_t done = 0;
    for (size_t at; (at = text.find(step.literal, done)) != text.npos;) {
      out.append(text.substr(done, at - done)).append(step.content);
      done = at + step.literal.size();
    }
    return out.append(text.substr(done));
  }
  Regex::MatchState state(*step.pattern);
  Regex::Match match;
  size_t done = 0;
  for (size_t from = 0; from <= text.size() && step.pattern->find(text, from, state, match);) {
    out.append(text.substr(done, match.begin - done)).append(step.content);
    done = from = match.end;
    if (match.begin == match.end) {
      from += from < text.size() ? static_cast<size_t>(code_point_at(text, from).bytes) : 1;
    }
  }
  return out.append(text.substr(done));
}

// One step as a function of the text so far.
struct Apply {
  std::string_view text;

  std::string operator()(Normalizer::Form form) const { return unicode_form(text, form); }
  std::string operator()(const Normalizer::Lowercase&) const {
    return map_characters(text, [](char32_t c, std::string& out) {
      append_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<int32_t>(c))), out);
      if (c == 0x130) out += "\xCC\x87";  // the one character whose lower case is two
    });
  }
  std::string operator()(const Normalizer::StripAccents&) const {
    return map_characters(text, [](char32_t c, std::string& out) {
      if (!is_mark(c)) append_utf8(c, out);
    });
  }
  std::string operator()(const Normalizer::Strip& strip) const {
    std::string_view kept = text;
    if (strip.left) kept = trimmed_left(kept);
    if (strip.right) kept = trimmed_right(kept);
    return std::string(kept);
  }
  std::string operator()(const Normalizer::Prepend& prepend) const {
    return text.empty() ? std::string() : prepend.text + std::string(text);
  }
  std::string operator()(const Normalizer::Replace& replace) const {
    return replaced(text, replace);
  }
};

using Steps = std::vector<Normalizer::Step>;

Result<void> add_replace(const Json& json, Steps& steps) {
  Result<SplitPattern> pattern = parse_pattern(json, "normalizer Replace");
  if (!pattern) return pattern.error();
  Normalizer::Replace step{
      std::move(pattern->literal), std::nullopt, string_field(json, "content", "")};
  if (!pattern->regex.empty()) {
    Result<Regex> regex = Regex::compile(pattern->regex);
    if (!regex) return regex.error();
    step.pattern.emplace(std::move(*regex));
  }
  steps.emplace_back(std::move(step));
  return {};
}

Result<void> add_step(const Json& json, Steps& steps) {
  const std::string type = string_field(json, "type", "");
  if (type == "Replace") return add_replace(json, steps);
  if (type == "NFC") {
    steps.emplace_back(Normalizer::Form::nfc);
  } else if (type == "NFD") {
    steps.emplace_back(Normalizer::Form::nfd);
  } else if (type == "NFKC") {
    steps.emplace_back(Normalizer::Form::nfkc);
  } else if (type == "NFKD") {
    steps.emplace_back(Normalizer::Form::nfkd);
  } else if (type == "Lowercase") {
    steps.emplace_back(Normalizer::Lowercase{});
  } else if (type == "StripAccents") {
    steps.emplace_back(Normalizer::StripAccents{});
  } else if (type == "Strip") {
    const bool left = bool_field(json, "strip_left", true);
    steps.emplace_back(Normalizer::Strip{left, bool_field(json, "strip_right", true)});
  } else if (type == "Prepend") {
    steps.emplace_back(Normalizer::Prepend{string_field(json, "prepend", "")});
  } else {
    return error("tokenizer.json: normalizer \"{}\" is not supported ({})", type, kSupported);
  }
  return {};
}

}  // namespace

Result<Normalizer> Normalizer::from_json(const Json& json) {
  Result<std::vector<const Json*>> components = flatten_sequence(json, "normalizers");
  if (!components) return components.error();
  std::vector<Step> steps;
  for (const Json* component : *components) {
    Result<void> added = add_step(*component, steps);
    if (!added) return added.error();
  }
  return Normalizer(std::move(steps));
}

std::string_view Normalizer::apply(std::string_view text, std::string& buffer) const {
  for (const Step& step : steps_) {
    const Form* form = std::get_if<Form>(&step);
    if (form != nullptr && is_trivially_normal(text, *form)) continue;
    buffer = std::visit(Apply{text}, step);
    text = buffer;
  }
  return text;
}

}  // namespace fathom::text
