#include "fathom/text/jinja/operators.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "fathom/text/jinja/format.h"
#include "fathom/text/utf8.h"

namespace fathom::text::jinja {
namespace {

[[noreturn]] void unsupported(std::string_view op, const Value& a, const Value& b) {
  throw TemplateError(
      fmt::format("unsupported operand types for {}: '{}' and '{}'", op, type_name(a), type_name(b))
  );
}

[[noreturn]] void overflow() {
  throw TemplateError("an integer grows beyond 64 bits");
}

int64_t floor_divide(int64_t a, int64_t b) {
  if (b == -1) {
    if (a == INT64_MIN) overflow();
    return -a;
  }
  const int64_t quotient = a / b;
  return quotient - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0);
}

Value integer_power(int64_t base, int64_t exponent) {
  if (exponent < 0) return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  if (base == 0 || base == 1) return exponent == 0 ? int64_t{1} : base;
  if (base == -1) return exponent % 2 == 0 ? int64_t{1} : int64_t{-1};
  int64_t result = 1;  // overflows within 64 rounds
  for (int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) overflow();
  }
  return result;
}

Value integer_binary(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+" && !__builtin_add_overflow(a, b, &result)) return result;
  if (op == "-" && !__builtin_sub_overflow(a, b, &result)) return result;
  if (op == "*" && !__builtin_mul_overflow(a, b, &result)) return result;
  if (op == "+" || op == "-" || op == "*") overflow();
  if (op == "**") return integer_power(a, b);
  if (b == 0) throw TemplateError("division by zero");
  if (op == "/") return static_cast<double>(a) / static_cast<double>(b);
  if (op == "//") return floor_divide(a, b);
  return b == -1 ? int64_t{0} : a - floor_divide(a, b) * b;
}

Value float_binary(std::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") return std::pow(a, b);
  if (b == 0) throw TemplateError("division by zero");
  if (op == "/") return a / b;
  if (op == "//") return std::floor(a / b);
  const double remainder = std::fmod(a, b);
  return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

Value repeated(const Value& value, int64_t times, Heap& heap) {
  if (const auto* text = std::get_if<std::string_view>(&value)) {
    std::string_view result;
    for (int64_t i = 0; i < times && !text->empty(); ++i) {
      heap.spend(1);
      result = heap.join(result, *text);
    }
    return result;
  }
  const List& list = *std::get<List*>(value);
  List* result = heap.list(list.is_tuple);
  for (int64_t i = 0; i < times && !list.items.empty(); ++i) {
    for (const Value& element : list.items) heap.append(*result, element);
  }
  return result;
}

bool is_sequence(const Value& value) {
  return is_string(value) || is<List*>(value);
}

Value concatenated(const List& a, const List& b, Heap& heap) {
  List* result = heap.list(a.is_tuple);
  for (const List* list : {&a, &b}) {
    for (const Value& element : list->items) heap.append(*result, element);
  }
  return result;
}

// "%s and %d" % (a, b): s, r, d, i, f and x, with a precision for f.
Value formatted(std::string_view format, const Value& value, Heap& heap) {
  std::vector<Value> arguments{value};
  if (is<List*>(value) && std::get<List*>(value)->is_tuple) {
    arguments = std::get<List*>(value)->items;
  }
  std::string out;
  size_t used = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      out += format[i];
      continue;
    }
    int precision = 6;
    if (format[++i] == '.' && i + 2 < format.size()) {
      precision = format[i + 1] - '0';
      i += 2;
    }
    const char kind = format[i];
    if (kind == '%') {
      out += '%';
      continue;
    }
    if (used == arguments.size()) throw TemplateError("too few arguments for a format");
    const Value& argument = arguments[used++];
    if (kind == 's') {
      append_str(argument, heap, out);
    } else if (kind == 'r') {
      append_repr(argument, heap, out);
    } else if (kind == 'd' || kind == 'i') {
      const double number = as_number(argument, "%d");
      out += std::to_string(
          is<double>(argument) ? static_cast<int64_t>(std::clamp(number, -9e18, 9e18))
                               : as_integer(argument, "%d")
      );
    } else if (kind == 'f' && precision >= 0 && precision <= 9) {
      out += fmt::format("{:.{}f}", as_number(argument, "%f"), precision);
    } else if (kind == 'x') {
      out += fmt::format("{:x}", as_integer(argument, "%x"));
    } else {
      throw TemplateError(fmt::format("the format %{} is not supported (s r d i f x)", kind));
    }
  }
  return heap.copy(out);
}

bool contains(const Value& container, const Value& value, Heap& heap) {
  if (const auto* text = std::get_if<std::string_view>(&container)) {
    heap.spend(static_cast<int64_t>(text->size() / 16));
    return text->find(as_string(value, "in <string>")) != text->npos;
  }
  if (Dict* const* dict = std::get_if<Dict*>(&container)) {
    return find(**dict, value, heap) != nullptr;
  }
  const std::vector<Value> all = elements(container, heap);
  return std::any_of(all.begin(), all.end(), [&](const Value& v) { return equal(v, value, heap); });
}

// Positions start, start + step ... of a sequence of `size`, as Python's slice.indices gives them.
struct Positions {
  int64_t start, count, step;
};

Positions positions(int64_t size, const Value& start, const Value& stop, const Value& step) {
  const int64_t by = is<None>(step) ? 1 : as_integer(step, "a slice");
  if (by == 0) throw TemplateError("a slice's step is zero");
  const auto bound = [&](const Value& value, int64_t otherwise) {
    if (is<None>(value)) return otherwise;
    int64_t at = as_integer(value, "a slice");
    if (at < 0) at = at < -size ? -1 : at + size;
    return by > 0 ? std::clamp<int64_t>(at, 0, size) : std::clamp<int64_t>(at, -1, size - 1);
  };
  const int64_t from = bound(start, by > 0 ? 0 : size - 1);
  const int64_t to = bound(stop, by > 0 ? size : -1);
  const int64_t distance = by > 0 ? to - from : from - to;
  if (distance <= 0) return {from, 0, by};
  const uint64_t stride = by > 0 ? static_cast<uint64_t>(by) : 0 - static_cast<uint64_t>(by);
  const auto count = static_cast<int64_t>((static_cast<uint64_t>(distance) - 1) / stride + 1);
  return {from, count, by};
}

bool less_lists(const List& a, const List& b, Heap& heap) {
  return std::lexicographical_compare(
      a.items.begin(),
      a.items.end(),
      b.items.begin(),
      b.items.end(),
      [&](const Value& x, const Value& y) { return !equal(x, y, heap) && less(x, y, heap); }
  );
}

Value list_item(const List& list, const Value& index) {
  if (is_string(index)) return Undefined{std::get<std::string_view>(index)};
  if (!is_integral(index)) return Undefined{"item"};
  int64_t at = as_integer(index, "an index");
  const int64_t size = static_cast<int64_t>(list.items.size());
  if (at < 0) at += size;
  return at >= 0 && at < size ? list.items[static_cast<size_t>(at)] : Value(Undefined{"item"});
}

}  // namespace

Value binary(std::string_view op, const Value& a, const Value& b, Heap& heap) {
  if (is_integral(a) && is_integral(b))
    return integer_binary(op, as_integer(a, op), as_integer(b, op));
  if (is_number(a) && is_number(b)) return float_binary(op, as_number(a, op), as_number(b, op));
  if (op == "+" && is_string(a) && is_string(b)) {
    return heap.join(std::get<std::string_view>(a), std::get<std::string_view>(b));
  }
  if (op == "+" && is<List*>(a) && is<List*>(b) &&
      std::get<List*>(a)->is_tuple == std::get<List*>(b)->is_tuple) {
    return concatenated(*std::get<List*>(a), *std::get<List*>(b), heap);
  }
  if (op == "*" && is_sequence(a) && is_integral(b)) return repeated(a, as_integer(b, op), heap);
  if (op == "*" && is_integral(a) && is_sequence(b)) return repeated(b, as_integer(a, op), heap);
  if (op == "%" && is_string(a)) return formatted(std::get<std::string_view>(a), b, heap);
  if (is<Undefined>(a) || is<Undefined>(b)) {
    const Value& undefined = is<Undefined>(a) ? a : b;
    throw TemplateError(fmt::format("'{}' is undefined", std::get<Undefined>(undefined).name));
  }
  unsupported(op, a, b);
}

Value negative(const Value& value) {
  if (is<double>(value)) return -std::get<double>(value);
  return integer_binary("-", 0, as_integer(value, "-"));
}

bool less(const Value& a, const Value& b, Heap& heap) {
  heap.spend(1);
  if (is_integral(a) && is_integral(b)) return as_integer(a, "<") < as_integer(b, "<");
  if (is_number(a) && is_number(b)) return as_number(a, "<") < as_number(b, "<");
  if (is_string(a) && is_string(b)) {
    return std::get<std::string_view>(a) < std::get<std::string_view>(b);
  }
  if (is<List*>(a) && is<List*>(b)) {
    return less_lists(*std::get<List*>(a), *std::get<List*>(b), heap);
  }
  unsupported("<", a, b);
}

bool compare(Comparison comparison, const Value& a, const Value& b, Heap& heap) {
  switch (comparison) {
    case Comparison::equal:
      return equal(a, b, heap);
    case Comparison::not_equal:
      return !equal(a, b, heap);
    case Comparison::less:
      return less(a, b, heap);
    case Comparison::less_equal:
      return !less(b, a, heap);
    case Comparison::greater:
      return less(b, a, heap);
    case Comparison::greater_equal:
      return !less(a, b, heap);
    case Comparison::in:
      return contains(b, a, heap);
    case Comparison::not_in:
      return !contains(b, a, heap);
  }
  return false;
}

std::vector<Value> elements(const Value& value, Heap& heap) {
  std::vector<Value> result;
  if (is<Undefined>(value)) return result;
  if (List* const* list = std::get_if<List*>(&value)) {
    heap.spend(static_cast<int64_t>((*list)->items.size()));
    return (*list)->items;
  }
  if (Dict* const* dict = std::get_if<Dict*>(&value); dict != nullptr && !(*dict)->is_namespace) {
    heap.spend(static_cast<int64_t>((*dict)->entries.size()));
    for (const auto& entry : (*dict)->entries) result.push_back(entry.first);
    return result;
  }
  if (const auto* text = std::get_if<std::string_view>(&value)) {
    heap.spend(static_cast<int64_t>(text->size()));
    heap.reserve(text->size() * sizeof(Value));
    for (size_t at = 0; at < text->size();) {
      const size_t bytes = static_cast<size_t>(code_point_at(*text, at).bytes);
      result.push_back(text->substr(at, bytes));
      at += bytes;
    }
    return result;
  }
  throw TemplateError(fmt::format("'{}' object is not iterable", type_name(value)));
}

int64_t character_count(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  });
}

int64_t length(const Value& value) {
  if (is<Undefined>(value)) return 0;
  if (const auto* text = std::get_if<std::string_view>(&value)) return character_count(*text);
  if (List* const* list = std::get_if<List*>(&value)) {
    return static_cast<int64_t>((*list)->items.size());
  }
  if (Dict* const* dict = std::get_if<Dict*>(&value)) {
    return static_cast<int64_t>((*dict)->entries.size());
  }
  throw TemplateError(fmt::format("'{}' has no length", type_name(value)));
}

Value item(const Value& value, const Value& index, Heap& heap) {
  if (Dict* const* dict = std::get_if<Dict*>(&value)) {
    const Value* found = find(**dict, index, heap);
    if (found != nullptr) return *found;
    return Undefined{is_string(index) ? std::get<std::string_view>(index) : "item"};
  }
  if (List* const* list = std::get_if<List*>(&value)) return list_item(**list, index);
  if (is_string(value) && is_integral(index)) {
    const int64_t at = as_integer(index, "an index");
    heap.spend(static_cast<int64_t>(std::get<std::string_view>(value).size() / 16));
    const Value end = at == -1 ? Value(None{}) : Value(at + 1);
    const Value character = slice(value, index, end, None{}, heap);
    const int64_t size = length(value);
    if (at >= -size && at < size) return character;
  }
  return Undefined{is_string(index) ? std::get<std::string_view>(index) : "item"};
}

Value slice(
    const Value& value, const Value& start, const Value& stop, const Value& step, Heap& heap
) {
  if (const auto* text = std::get_if<std::string_view>(&value)) {
    heap.spend(static_cast<int64_t>(text->size() / 16));
    std::vector<uint32_t> borders;
    heap.reserve(text->size());
    for (size_t at = 0; at < text->size();
         at += static_cast<size_t>(code_point_at(*text, at).bytes)) {
      borders.push_back(static_cast<uint32_t>(at));
    }
    const Positions p = positions(static_cast<int64_t>(borders.size()), start, stop, step);
    borders.push_back(static_cast<uint32_t>(text->size()));
    if (p.count == 0) return std::string_view();
    if (p.step == 1) {
      const size_t from = borders[static_cast<size_t>(p.start)];
      return text->substr(from, borders[static_cast<size_t>(p.start + p.count)] - from);
    }
    std::string_view result;
    for (int64_t i = 0, at = p.start; i < p.count; ++i, at += p.step) {
      heap.spend(1);
      const size_t from = borders[static_cast<size_t>(at)];
      result = heap.join(result, text->substr(from, borders[static_cast<size_t>(at) + 1] - from));
    }
    return result;
  }
  if (!is<List*>(value)) {
    throw TemplateError(fmt::format("'{}' cannot be sliced", type_name(value)));
  }
  const List& list = *std::get<List*>(value);
  const Positions p = positions(static_cast<int64_t>(list.items.size()), start, stop, step);
  List* result = heap.list(list.is_tuple);
  for (int64_t i = 0, at = p.start; i < p.count; ++i, at += p.step) {
    heap.append(*result, list.items[static_cast<size_t>(at)]);
  }
  return result;
}

}  // namespace fathom::text::jinja
