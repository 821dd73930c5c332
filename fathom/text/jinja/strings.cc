#include "fathom/text/jinja/strings.h"

#include <utf8proc.h>

#include <algorithm>

#include "fathom/text/unicode.h"
#include "fathom/text/utf8.h"

namespace fathom::text::jinja {
namespace {

// Python takes four information separators for white space too.
bool is_python_space(char32_t c) {
  return is_white_space(c) || (c >= 0x1C && c <= 0x1F);
}

template <class F>
void for_each_character(std::string_view text, F f) {
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    f(c.value);
    at += static_cast<size_t>(c.bytes);
  }
}

bool is_letter(char32_t c) {
  const auto category = utf8proc_category(static_cast<int32_t>(c));
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
         category == UTF8PROC_CATEGORY_LT;
}

void append_upper(char32_t c, std::string& out) {
  if (c == 0xDF) {
    out += "SS";  // the one common letter whose upper case is two
  } else {
    append_utf8(static_cast<char32_t>(utf8proc_toupper(static_cast<int32_t>(c))), out);
  }
}

void append_lower(char32_t c, std::string& out) {
  append_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<int32_t>(c))), out);
  if (c == 0x130) out += "\xCC\x87";
}

void append_title(char32_t c, std::string& out) {
  append_utf8(static_cast<char32_t>(utf8proc_totitle(static_cast<int32_t>(c))), out);
}

std::vector<std::string_view> split_at_space(std::string_view text, int64_t most) {
  std::vector<std::string_view> parts;
  while (!(text = stripped(text, {}, true, false)).empty()) {
    if (most >= 0 && static_cast<int64_t>(parts.size()) == most) {
      parts.push_back(stripped(text, {}, false, true));
      break;
    }
    size_t end = 0;
    while (end < text.size()) {
      const CodePoint c = code_point_at(text, end);
      if (is_python_space(c.value)) break;
      end += static_cast<size_t>(c.bytes);
    }
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return parts;
}

std::vector<std::string_view> split_right_at_space(std::string_view text, int64_t most) {
  std::vector<std::string_view> parts;
  while (!(text = stripped(text, {}, false, true)).empty()) {
    if (most >= 0 && static_cast<int64_t>(parts.size()) == most) {
      parts.push_back(stripped(text, {}, true, false));
      break;
    }
    size_t begin = text.size();
    while (begin > 0) {
      const size_t at = last_code_point(text.substr(0, begin));
      if (is_python_space(code_point_at(text, at).value)) break;
      begin = at;
    }
    parts.push_back(text.substr(begin));
    text = text.substr(0, begin);
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

}  // namespace

std::string upper(std::string_view text) {
  std::string out;
  for_each_character(text, [&](char32_t c) { append_upper(c, out); });
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  for_each_character(text, [&](char32_t c) { append_lower(c, out); });
  return out;
}

std::string case_swapped(std::string_view text) {
  std::string out;
  for_each_character(text, [&](char32_t c) {
    const bool is_upper = utf8proc_category(static_cast<int32_t>(c)) == UTF8PROC_CATEGORY_LU;
    is_upper ? append_lower(c, out) : append_upper(c, out);
  });
  return out;
}

std::string capitalized(std::string_view text) {
  std::string out;
  for_each_character(text, [&](char32_t c) {
    out.empty() ? append_title(c, out) : append_lower(c, out);
  });
  return out;
}

std::string titled(std::string_view text) {
  std::string out;
  bool in_word = false;
  for_each_character(text, [&](char32_t c) {
    in_word ? append_lower(c, out) : append_title(c, out);
    in_word = is_letter(c);
  });
  return out;
}

bool has_case(std::string_view text, bool is_upper) {
  bool found = false;
  bool all = true;
  for_each_character(text, [&](char32_t c) {
    if (!is_letter(c)) return;
    found = true;
    const auto category = utf8proc_category(static_cast<int32_t>(c));
    all &= category == (is_upper ? UTF8PROC_CATEGORY_LU : UTF8PROC_CATEGORY_LL);
  });
  return found && all;
}

std::string_view stripped(
    std::string_view text, std::string_view characters, bool left, bool right
) {
  const auto strips = [&](size_t at) {
    const CodePoint c = code_point_at(text, at);
    if (characters.empty()) return is_python_space(c.value);
    const std::string_view wanted = text.substr(at, static_cast<size_t>(c.bytes));
    return characters.find(wanted) != characters.npos;
  };
  while (left && !text.empty() && strips(0)) {
    text.remove_prefix(static_cast<size_t>(code_point_at(text, 0).bytes));
  }
  while (right && !text.empty() && strips(last_code_point(text))) {
    text = text.substr(0, last_code_point(text));
  }
  return text;
}

std::vector<std::string_view> split(
    std::string_view text, std::string_view separator, int64_t most
) {
  if (separator.empty()) return split_at_space(text, most);
  std::vector<std::string_view> parts;
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t at = text.find(separator);
    if (at == text.npos) break;
    parts.push_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  parts.push_back(text);
  return parts;
}

std::vector<std::string_view> split_right(
    std::string_view text, std::string_view separator, int64_t most
) {
  if (separator.empty()) return split_right_at_space(text, most);
  std::vector<std::string_view> parts;
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t at = text.rfind(separator);
    if (at == text.npos) break;
    parts.push_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  parts.push_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    const bool ends = (c.value >= 10 && c.value <= 13) || (c.value >= 0x1C && c.value <= 0x1E) ||
                      c.value == 0x85 || c.value == 0x2028 || c.value == 0x2029;
    size_t after = at + static_cast<size_t>(c.bytes);
    if (c.value == '\r' && text.substr(after).starts_with('\n')) ++after;
    if (ends) {
      lines.push_back(text.substr(begin, (keep_ends ? after : at) - begin));
      begin = after;
    }
    at = after;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::string replaced(
    std::string_view text, std::string_view from, std::string_view to, int64_t most
) {
  std::string out;
  size_t done = 0;
  size_t at = 0;
  for (int64_t count = 0; most < 0 || count < most; ++count) {
    // Nothing is found before every character and at the end.
    if (from.empty()) {
      if (at > text.size()) break;
    } else if ((at = text.find(from, at)) == text.npos) {
      break;
    }
    out.append(text.substr(done, at - done)).append(to);
    done = at + from.size();
    at = done;
    if (from.empty())
      at += at < text.size() ? static_cast<size_t>(code_point_at(text, at).bytes) : 1;
  }
  return out.append(text.substr(done));
}

}  // namespace fathom::text::jinja
