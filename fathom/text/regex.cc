#include "fathom/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

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

// The pattern with \s and \S spelled out.
Result<std::string> translate(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        out.append(in_class ? "" : "[").append(kWhiteSpace).append(in_class ? "" : "]");
      } else if (escaped == 'S') {
        out.append(in_class ? kNotWhiteSpace : "[^");
        if (!in_class) out.append(kWhiteSpace).append("]");
      } else {
        out.append({c, escaped});
      }
      continue;
    }
    if (in_class && c == '&' && pattern.substr(i, 2) == "&&") {
      return error("regular expression \"{}\": class intersection (&&) is not supported", pattern);
    }
    if (c == '[' && in_class && pattern.substr(i, 2) != "[:") {
      return error("regular expression \"{}\": a class inside a class is not supported", pattern);
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

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
      options | PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C,
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
  Result<std::string> translated = translate(pattern);
  if (!translated) return translated.error();
  int code = 0;
  size_t offset = 0;
  pcre2_code* compiled = compile_code(*translated, PCRE2_UCP, code, offset);
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
