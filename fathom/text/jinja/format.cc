#include "fathom/text/jinja/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "fathom/text/unicode.h"
#include "fathom/text/utf8.h"

namespace fathom::text::jinja {
namespace {

constexpr int kMaxDepth = 200;  // of containers in containers

void check_depth(int depth) {
  if (depth > kMaxDepth) throw TemplateError("a value nests too deep to be printed");
}

// Counts the text that was appended since `before`.
void count(Heap& heap, const std::string& out, size_t before) {
  heap.spend(1 + static_cast<int64_t>((out.size() - before) / 16));
}

void append_quoted(std::string_view text, std::string& out) {
  const bool doubled = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = doubled ? '"' : '\'';
  out += quote;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    const std::string_view bytes = text.substr(at, static_cast<size_t>(c.bytes));
    at += bytes.size();
    if (c.value == static_cast<char32_t>(quote) || c.value == '\\') {
      out.append({'\\', static_cast<char>(c.value)});
    } else if (c.value == '\n') {
      out += "\\n";
    } else if (c.value == '\r') {
      out += "\\r";
    } else if (c.value == '\t') {
      out += "\\t";
    } else if (is_printable(c.value)) {
      out += bytes;
    } else if (c.value < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(c.value));
    } else if (c.value < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c.value));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<uint32_t>(c.value));
    }
  }
  out += quote;
}

void append_repr_at(const Value& value, Heap& heap, int depth, std::string& out);

void append_list(const List& list, Heap& heap, int depth, std::string& out) {
  out += list.is_tuple ? '(' : '[';
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr_at(list.items[i], heap, depth + 1, out);
  }
  if (list.is_tuple && list.items.size() == 1) out += ',';
  out += list.is_tuple ? ')' : ']';
}

void append_dict(const Dict& dict, Heap& heap, int depth, std::string& out) {
  out += dict.is_namespace ? "<Namespace {" : "{";
  for (size_t i = 0; i < dict.entries.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr_at(dict.entries[i].first, heap, depth + 1, out);
    out += ": ";
    append_repr_at(dict.entries[i].second, heap, depth + 1, out);
  }
  out += dict.is_namespace ? "}>" : "}";
}

void append_repr_at(const Value& value, Heap& heap, int depth, std::string& out) {
  check_depth(depth);
  const size_t before = out.size();
  if (is<Undefined>(value)) {
    out += "Undefined";
  } else if (is<None>(value)) {
    out += "None";
  } else if (const bool* boolean = std::get_if<bool>(&value)) {
    out += *boolean ? "True" : "False";
  } else if (const int64_t* integer = std::get_if<int64_t>(&value)) {
    out += std::to_string(*integer);
  } else if (const double* number = std::get_if<double>(&value)) {
    out += format_float(*number);
  } else if (const auto* text = std::get_if<std::string_view>(&value)) {
    append_quoted(*text, out);
  } else if (List* const* list = std::get_if<List*>(&value)) {
    append_list(**list, heap, depth, out);
  } else if (Dict* const* dict = std::get_if<Dict*>(&value)) {
    append_dict(**dict, heap, depth, out);
  } else {
    throw TemplateError(fmt::format("a {} cannot be printed", type_name(value)));
  }
  count(heap, out, before);
}

void append_unicode_escape(char32_t c, std::string& out) {
  if (c >= 0x10000) {
    const uint32_t offset = static_cast<uint32_t>(c) - 0x10000;
    out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (offset >> 10), 0xDC00 + (offset & 0x3FF));
  } else {
    out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
  }
}

void append_json_string(std::string_view text, bool ascii, std::string& out) {
  constexpr std::string_view kSpecial = "\"\\\n\r\t\f\b";
  constexpr std::string_view kLetters = "\"\\nrtfb";
  out += '"';
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    const size_t special = c.bytes == 1 ? kSpecial.find(text[at]) : kSpecial.npos;
    if (special != kSpecial.npos) {
      out.append({'\\', kLetters[special]});
    } else if (c.value < 0x20 || (ascii && c.value > 0x7E)) {
      append_unicode_escape(c.value, out);
    } else {
      out += text.substr(at, static_cast<size_t>(c.bytes));
    }
    at += static_cast<size_t>(c.bytes);
  }
  out += '"';
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Heap& heap, std::string& out)
      : style_(style), heap_(heap), out_(out) {}

  void write(const Value& value, int depth) {
    check_depth(depth);
    const size_t before = out_.size();
    if (List* const* list = std::get_if<List*>(&value)) {
      write_list(**list, depth);
    } else if (Dict* const* dict = std::get_if<Dict*>(&value); dict && !(*dict)->is_namespace) {
      write_dict(**dict, depth);
    } else if (const auto* text = std::get_if<std::string_view>(&value)) {
      append_json_string(*text, style_.ascii, out_);
    } else {
      out_ += scalar(value);
    }
    count(heap_, out_, before);
  }

 private:
  static std::string scalar(const Value& value) {
    if (is<None>(value)) return "null";
    if (const bool* boolean = std::get_if<bool>(&value)) return *boolean ? "true" : "false";
    if (const int64_t* integer = std::get_if<int64_t>(&value)) return std::to_string(*integer);
    if (const double* number = std::get_if<double>(&value)) {
      if (std::isnan(*number)) return "NaN";
      if (std::isinf(*number)) return *number > 0 ? "Infinity" : "-Infinity";
      return format_float(*number);
    }
    throw TemplateError(fmt::format("a {} cannot be written as JSON", type_name(value)));
  }

  void new_line(int depth) {
    if (style_.indent < 0) return;
    out_ += '\n';
    out_.append(static_cast<size_t>(style_.indent) * static_cast<size_t>(depth), ' ');
  }

  void write_list(const List& list, int depth) {
    out_ += '[';
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line(depth + 1);
      write(list.items[i], depth + 1);
    }
    if (!list.items.empty()) new_line(depth);
    out_ += ']';
  }

  void write_dict(const Dict& dict, int depth) {
    std::vector<std::pair<std::string, const Value*>> entries;
    for (const auto& [key, value] : dict.entries) {
      entries.emplace_back(is_string(key) ? as_string(key, "") : scalar(key), &value);
    }
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
        return a.first < b.first;
      });
    }
    out_ += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line(depth + 1);
      append_json_string(entries[i].first, style_.ascii, out_);
      out_ += style_.key_separator;
      write(*entries[i].second, depth + 1);
    }
    if (!entries.empty()) new_line(depth);
    out_ += '}';
  }

  const JsonStyle& style_;
  Heap& heap_;
  std::string& out_;
};

}  // namespace

void append_str(const Value& value, Heap& heap, std::string& out) {
  if (is<Undefined>(value)) return;
  if (const auto* text = std::get_if<std::string_view>(&value)) {
    heap.spend(static_cast<int64_t>(text->size() / 16));
    out += *text;
  } else {
    append_repr_at(value, heap, 0, out);
  }
}

void append_repr(const Value& value, Heap& heap, std::string& out) {
  append_repr_at(value, heap, 0, out);
}

void append_json(const Value& value, const JsonStyle& style, Heap& heap, std::string& out) {
  JsonWriter(style, heap, out).write(value, 0);
}

std::string format_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const double magnitude = std::fabs(value);
  const bool scientific = magnitude != 0 && (magnitude < 1e-4 || magnitude >= 1e16);
  const auto style = scientific ? std::chars_format::scientific : std::chars_format::fixed;
  const char* end = std::to_chars(buffer, buffer + sizeof(buffer), value, style).ptr;
  std::string text(buffer, static_cast<size_t>(end - buffer));
  if (!scientific && text.find('.') == text.npos) text += ".0";
  return text;
}

}  // namespace fathom::text::jinja
