// Filters of one value: text, numbers, JSON.
#include <fmt/format.h>
#include <algorithm>

#include <charconv>
#include <cmath>

#include "fathom/text/jinja/filter_tables.h"
#include "fathom/text/jinja/format.h"
#include "fathom/text/jinja/interpreter.h"
#include "fathom/text/jinja/operators.h"
#include "fathom/text/jinja/strings.h"

namespace fathom::text::jinja {
namespace {

// The value as text, its length counted.
std::string_view text_of(Interpreter& interpreter, const Value& value) {
  const std::string_view text = interpreter.to_string(value);
  interpreter.heap().spend(static_cast<int64_t>(text.size() / 16) + 1);
  return text;
}

template <std::string (*kMap)(std::string_view)>
Value mapped(Interpreter& interpreter, const Value& value, const Arguments&) {
  return interpreter.heap().copy(kMap(text_of(interpreter, value)));
}

Value string(Interpreter& interpreter, const Value& value, const Arguments&) {
  return interpreter.to_string(value);
}

Value trim(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const Value characters = arguments.get(0, "chars", None{});
  const std::string_view text = text_of(interpreter, value);
  if (is<None>(characters)) return stripped(text, {}, true, true);
  const std::string_view set = as_string(characters, "trim");
  return set.empty() ? text : stripped(text, set, true, true);
}

Value replace(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const std::string_view text = text_of(interpreter, value);
  const Function method = find_method(text, "replace");
  return method(interpreter, text, arguments);
}

Value center(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const std::string_view text = text_of(interpreter, value);
  Arguments width;
  width.positional.push_back(arguments.get(0, "width", int64_t{80}));
  return find_method(text, "center")(interpreter, text, width);
}

Value default_value(Interpreter&, const Value& value, const Arguments& arguments) {
  const bool also_false = is_true(arguments.get(1, "boolean", false));
  if (!is<Undefined>(value) && (!also_false || is_true(value))) return value;
  return arguments.get(0, "default_value", std::string_view());
}

// HTML's characters as entities.
Value escape(Interpreter& interpreter, const Value& value, const Arguments&) {
  std::string out;
  for (const char c : text_of(interpreter, value)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return interpreter.heap().copy(out);
}

Value indent(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const Value width = arguments.get(0, "width", int64_t{4});
  const bool first = is_true(arguments.get(1, "first", false));
  const bool blank = is_true(arguments.get(2, "blank", false));
  const int64_t spaces = is_string(width) ? 0 : as_integer(width, "indent");
  if (spaces > 1000) throw TemplateError("indent: the width is beyond 1000");
  const std::string prefix =
      is_string(width) ? std::string(as_string(width, "indent"))
                       : std::string(static_cast<size_t>(std::max<int64_t>(spaces, 0)), ' ');
  Heap& heap = interpreter.heap();
  std::string_view out;
  bool at_start = true;
  // The text is read with a newline behind it, as Jinja does, so that a last empty line counts.
  std::string text(text_of(interpreter, value));
  if (!blank || first) text += '\n';
  std::vector<std::string_view> lines = split_lines(text, false);
  if (blank && !first) lines = split_lines(text += '\n', false);
  for (const std::string_view line : lines) {
    if (!at_start) out = heap.join(out, "\n");
    if ((at_start ? first : true) && (blank || at_start || !line.empty())) {
      out = heap.join(out, prefix);
    }
    out = heap.join(out, line);
    at_start = false;
  }
  return out;
}

Value truncate(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const std::string_view text = text_of(interpreter, value);
  const int64_t length_wanted = as_integer(arguments.get(0, "length", int64_t{255}), "truncate");
  const bool kill_words = is_true(arguments.get(1, "killwords", false));
  const std::string_view end =
      as_string(arguments.get(2, "end", std::string_view("...")), "truncate");
  const int64_t leeway = as_integer(arguments.get(3, "leeway", int64_t{5}), "truncate");
  if (character_count(text) - leeway <= length_wanted) return text;
  const int64_t kept = length_wanted - character_count(end);
  if (kept < 0) throw TemplateError("truncate: the length is below that of the end");
  Heap& heap = interpreter.heap();
  std::string_view start = std::get<std::string_view>(slice(text, None{}, kept, None{}, heap));
  if (!kill_words) start = split_right(start, " ", 1).front();
  return heap.join(heap.copy(start), end);
}

Value word_count(Interpreter& interpreter, const Value& value, const Arguments&) {
  return static_cast<int64_t>(split(text_of(interpreter, value), {}, -1).size());
}

Value format(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  List* values = interpreter.heap().list(true);
  for (const Value& argument : arguments.positional) interpreter.heap().append(*values, argument);
  return binary("%", text_of(interpreter, value), values, interpreter.heap());
}

// What urllib.parse.quote leaves as it is.
Value url_encode(Interpreter& interpreter, const Value& value, const Arguments&) {
  std::string out;
  for (const char c : text_of(interpreter, value)) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter || std::string_view("_.-~/").find(c) != std::string_view::npos) {
      out += c;
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return interpreter.heap().copy(out);
}

// The number that a text holds, or nothing.
template <class T>
bool parse_number(std::string_view text, T& number) {
  text = stripped(text, {}, true, true);
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  return failure == std::errc() && end == text.data() + text.size() && !text.empty();
}

Value to_integer(Interpreter&, const Value& value, const Arguments& arguments) {
  const Value otherwise = arguments.get(0, "default", int64_t{0});
  if (is_integral(value)) return as_integer(value, "int");
  double number = 0;
  if (is<double>(value)) {
    number = std::get<double>(value);
  } else {
    int64_t integer = 0;
    if (!is_string(value)) return otherwise;
    if (parse_number(std::get<std::string_view>(value), integer)) return integer;
    if (!parse_number(std::get<std::string_view>(value), number)) return otherwise;
  }
  return std::fabs(number) < 9e18 ? Value(static_cast<int64_t>(number)) : otherwise;
}

Value to_float(Interpreter&, const Value& value, const Arguments& arguments) {
  if (is_number(value)) return as_number(value, "float");
  double number = 0;
  if (is_string(value) && parse_number(std::get<std::string_view>(value), number)) return number;
  return arguments.get(0, "default", 0.0);
}

Value absolute(Interpreter&, const Value& value, const Arguments&) {
  if (is<double>(value)) return std::fabs(std::get<double>(value));
  return as_integer(value, "abs") < 0 ? negative(value) : Value(as_integer(value, "abs"));
}

Value round(Interpreter&, const Value& value, const Arguments& arguments) {
  const int64_t precision = as_integer(arguments.get(0, "precision", int64_t{0}), "round");
  const Value method = arguments.get(1, "method", std::string_view("common"));
  const double number = as_number(value, "round");
  if (precision < -15 || precision > 15) throw TemplateError("round: precision beyond 15 digits");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const std::string_view name = as_string(method, "round");
  if (name == "ceil") return std::ceil(number * scale) / scale;
  if (name == "floor") return std::floor(number * scale) / scale;
  if (name != "common") throw TemplateError("round: the method is common, ceil or floor");
  if (precision <= 0) return std::nearbyint(number * scale) / scale;
  double rounded = 0;  // by way of decimal text, which rounds the number's exact value
  parse_number(fmt::format("{:.{}f}", number, precision), rounded);
  return rounded;
}

JsonStyle json_style(const Arguments& arguments) {
  JsonStyle style;
  style.ascii = is_true(arguments.get(0, "ensure_ascii", false));
  const Value indent_by = arguments.get(1, "indent", None{});
  if (!is<None>(indent_by)) {
    style.indent = static_cast<int>(std::clamp<int64_t>(as_integer(indent_by, "tojson"), 0, 64));
    style.item_separator = ",";
  }
  const Value separators = arguments.get(2, "separators", None{});
  if (is<List*>(separators) && std::get<List*>(separators)->items.size() == 2) {
    style.item_separator = as_string(std::get<List*>(separators)->items[0], "tojson");
    style.key_separator = as_string(std::get<List*>(separators)->items[1], "tojson");
  }
  style.sort_keys = is_true(arguments.get(3, "sort_keys", false));
  return style;
}

Value to_json(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  std::string out;
  append_json(value, json_style(arguments), interpreter.heap(), out);
  return interpreter.heap().copy(out);
}

constexpr NamedFunction kFilters[] = {
    {"upper", mapped<upper>},
    {"lower", mapped<lower>},
    {"capitalize", mapped<capitalized>},
    {"title", mapped<titled>},
    {"string", string},
    {"safe", string},
    {"trim", trim},
    {"replace", replace},
    {"center", center},
    {"default", default_value},
    {"d", default_value},
    {"escape", escape},
    {"e", escape},
    {"indent", indent},
    {"truncate", truncate},
    {"wordcount", word_count},
    {"format", format},
    {"urlencode", url_encode},
    {"int", to_integer},
    {"float", to_float},
    {"abs", absolute},
    {"round", round},
    {"tojson", to_json},
};

}  // namespace

std::span<const NamedFunction> scalar_filters() {
  return kFilters;
}

Function find_filter(std::string_view name) {
  for (const auto filters : {scalar_filters(), sequence_filters()}) {
    for (const NamedFunction& filter : filters) {
      if (filter.name == name) return filter.function;
    }
  }
  return nullptr;
}

}  // namespace fathom::text::jinja
