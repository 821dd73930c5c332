#include "fathom/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "fathom/text/later_unicode.h"

namespace fathom::text {
namespace {

constexpr uint32_t kMatchLimit = 10'000'000;
constexpr size_t kPatternBytes = 64 << 10;
constexpr uint32_t kNestLimit = 100;

// Unicode's White_Space: PCRE2's \s has U+180E besides.
constexpr std::string_view kWhiteSpace =
    "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}"
    "\\x{205F}\\x{3000}";
// All else, for \S inside a class.
constexpr std::string_view kNotWhiteSpace =
    "\\x{0}-\\x{8}\\x{E}-\\x{1F}\\x{21}-\\x{84}\\x{86}-\\x{9F}\\x{A1}-\\x{167F}\\x{1681}-\\x{1FFF}"
    "\\x{200B}-\\x{2027}\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}\\x{2060}-\\x{2FFF}\\x{3001}-"
    "\\x{10FFFF}";

// The later members of the category that `property` ("{L}") names, as class items.
std::string later_members(std::string_view property) {
  std::string items;
  for (const LaterCharacters& later : kLaterCharacters) {
    if (property.substr(1, property.size() - 2) != later.category) continue;
    for (std::string_view ranges = later.ranges; !ranges.empty();) {
      const std::string_view range = ranges.substr(0, ranges.find(' '));
      ranges.remove_prefix(std::min(range.size() + 1, ranges.size()));
      const size_t dash = std::min(range.find('-'), range.size());
      items.append("\\x{").append(range.substr(0, dash)).append("}");
      if (dash == range.size()) continue;
      items.append("-\\x{").append(range.substr(dash + 1)).append("}");
    }
  }
  return items;
}

// Brings a pattern over: \s and \S spelled out, \p with what Unicode has assigned since.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> run() {
    for (size_t i = 0; i < pattern_.size(); ++i) {
      const char c = pattern_[i];
      if (c == '\\' && i + 1 < pattern_.size()) {
        i += escape(pattern_.substr(i + 1));
        continue;
      }
      if (in_class_ && pattern_.substr(i, 2) == "&&") return unsupported("class intersection (&&)");
      if (in_class_ && c == '[' && pattern_.substr(i, 2) != "[:") {
        return unsupported("a class inside a class");
      }
      if (c == '[') in_class_ = true;
      if (c == ']') in_class_ = false;
      out_ += c;
    }
    return std::move(out_);
  }

 private:
  Error unsupported(std::string_view what) const {
    return error("regular expression \"{}\": {} is not supported", pattern_, what);
  }

  // Translates what follows a backslash; the bytes read.
  size_t escape(std::string_view rest) {
    const char kind = rest[0];
    if (kind == 's') {
      put_class("[", kWhiteSpace);
    } else if (kind == 'S') {
      in_class_ ? put_class("[", kNotWhiteSpace) : put_class("[^", kWhiteSpace);
    } else if (kind == 'p' || (kind == 'P' && !in_class_)) {
      const size_t end = rest.starts_with("p{") || rest.starts_with("P{") ? rest.find('}') : 0;
      const std::string_view property = rest.substr(1, end == rest.npos ? 0 : end);
      const std::string later = later_members(property.empty() ? "{}" : property);
      const std::string members = "\\p" + std::string(property) + later;
      if (later.empty()) {
        out_.append({'\\', kind});
        return 1;
      }
      put_class(kind == 'p' ? "[" : "[^", members);
      return 1 + property.size();
    } else {
      out_.append({'\\', kind});
    }
    return 1;
  }

  // Items of a class; outside a class, a class of their own.
  void put_class(std::string_view opening, std::string_view items) {
    if (!in_class_) out_ += opening;
    out_ += items;
    if (!in_class_) out_ += ']';
  }

  std::string_view pattern_;
  std::string out_;
  bool in_class_ = false;
};

struct ContextFree {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

pcre2_code* compile_code(std::string_view pattern, uint32_t options, int& code, size_t& offset) {
  std::unique_ptr<pcre2_compile_context, ContextFree> context(pcre2_compile_context_create(nullptr)
  );
  pcre2_set_parens_nest_limit(context.get(), kNestLimit);
  pcre2_code* compiled = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(pattern.data()),
      pattern.size(),
      options | PCRE2_UTF,
      &code,
      &offset,
      context.get()
  );
  // Where JIT is not to be had, matching falls back to the interpreter by itself.
  if (compiled != nullptr) pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
  return compiled;
}

}  // namespace

struct MatchData {
  explicit MatchData(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)) {
    pcre2_set_match_limit(context, kMatchLimit);
  }
  ~MatchData() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
  pcre2_match_data* data;
  pcre2_match_context* context;
};

Regex::MatchState::MatchState(const Regex& regex)
    : data_(new MatchData(static_cast<const pcre2_code*>(regex.code_.get()))) {}

void Regex::MatchState::Free::operator()(void* data) const {
  delete static_cast<MatchData*>(data);
}

void Regex::Free::operator()(void* code) const {
  pcre2_code_free(static_cast<pcre2_code*>(code));
}

Result<Regex> Regex::compile(std::string_view pattern) {
  if (pattern.size() > kPatternBytes) {
    return error(
        "regular expression of {} bytes: at most {} are supported", pattern.size(), kPatternBytes
    );
  }
  Result<std::string> translated = Translator(pattern).run();
  if (!translated) return translated.error();
  int code = 0;
  size_t offset = 0;
  pcre2_code* compiled =
      compile_code(*translated, PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, code, offset);
  if (compiled == nullptr) {
    char message[256] = "";
    pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof(message));
    return error("regular expression \"{}\": {}", pattern, message);
  }
  return Regex(compiled);
}

Regex Regex::literal(std::string_view text) {
  int code = 0;
  size_t offset = 0;
  pcre2_code* compiled = compile_code(text, PCRE2_LITERAL, code, offset);
  CHECK(compiled != nullptr, "literal pattern of {} bytes: PCRE2 error {}", text.size(), code);
  return Regex(compiled);
}

bool Regex::find(std::string_view text, size_t from, MatchState& state, Match& match) const {
  MatchData& working = *static_cast<MatchData*>(state.data_.get());
  const int found = pcre2_match(
      static_cast<const pcre2_code*>(code_.get()),
      reinterpret_cast<PCRE2_SPTR>(text.data()),
      text.size(),
      from,
      PCRE2_NO_UTF_CHECK,
      working.data,
      working.context
  );
  if (found < 0) return false;
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(working.data);
  match = {offsets[0], offsets[1]};
  return match.begin <= match.end;  // \K in a look-ahead can turn them round
}

}  // namespace fathom::text
