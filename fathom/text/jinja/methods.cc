// Methods of strings, dicts, lists and loops. Those that change their object are left out: values
// are immutable, as in transformers' sandbox.
#include <fmt/format.h>

#include <algorithm>

#include "fathom/text/jinja/format.h"
#include "fathom/text/jinja/interpreter.h"
#include "fathom/text/jinja/library.h"
#include "fathom/text/jinja/operators.h"
#include "fathom/text/jinja/strings.h"
#include "fathom/text/unicode.h"
#include "fathom/text/utf8.h"

namespace fathom::text::jinja {
namespace {

std::string_view text_of(const Value& self) {
  return std::get<std::string_view>(self);
}

// Counts reading `self` once.
Heap& heap_for(Interpreter& interpreter, const Value& self) {
  interpreter.heap().spend(static_cast<int64_t>(text_of(self).size() / 16) + 1);
  return interpreter.heap();
}

Value list_of(const std::vector<std::string_view>& parts, Heap& heap) {
  List* list = heap.list();
  for (const std::string_view part : parts) heap.append(*list, part);
  return list;
}

template <std::string (*kMap)(std::string_view)>
Value mapped(Interpreter& interpreter, const Value& self, const Arguments&) {
  return heap_for(interpreter, self).copy(kMap(text_of(self)));
}

template <bool kLeft, bool kRight>
Value strip(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  heap_for(interpreter, self);
  const Value characters = arguments.get(0, "chars", None{});
  if (is<None>(characters)) return stripped(text_of(self), {}, kLeft, kRight);
  const std::string_view set = as_string(characters, "strip");
  return set.empty() ? self : Value(stripped(text_of(self), set, kLeft, kRight));
}

template <bool kRight>
Value split_text(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Heap& heap = heap_for(interpreter, self);
  const Value separator = arguments.get(0, "sep", None{});
  const int64_t most = as_integer(arguments.get(1, "maxsplit", int64_t{-1}), "split");
  std::string_view at;
  if (!is<None>(separator)) {
    at = as_string(separator, "split");
    if (at.empty()) throw TemplateError("split: the separator is empty");
  }
  return list_of(
      kRight ? split_right(text_of(self), at, most) : split(text_of(self), at, most), heap
  );
}

Value splitlines(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Heap& heap = heap_for(interpreter, self);
  return list_of(split_lines(text_of(self), is_true(arguments.get(0, "keepends", false))), heap);
}

template <bool kRight>
Value partition(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Heap& heap = heap_for(interpreter, self);
  const std::string_view text = text_of(self);
  const std::string_view separator = as_string(arguments.need(0, "sep", "partition"), "partition");
  if (separator.empty()) throw TemplateError("partition: the separator is empty");
  const size_t at = kRight ? text.rfind(separator) : text.find(separator);
  const std::string_view none;
  if (at == text.npos) {
    return kRight ? heap.tuple({none, none, text}) : heap.tuple({text, none, none});
  }
  return heap.tuple({text.substr(0, at), separator, text.substr(at + separator.size())});
}

template <bool kEnd>
Value has_affix(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Value& affix = arguments.need(0, "prefix", kEnd ? "endswith" : "startswith");
  const auto matches = [&](const Value& value) {
    const std::string_view text = as_string(value, kEnd ? "endswith" : "startswith");
    return kEnd ? text_of(self).ends_with(text) : text_of(self).starts_with(text);
  };
  if (is_string(affix)) return matches(affix);
  const std::vector<Value> any = elements(affix, interpreter.heap());
  return std::any_of(any.begin(), any.end(), matches);
}

template <bool kEnd>
Value remove_affix(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  heap_for(interpreter, self);
  const std::string_view text = text_of(self);
  const std::string_view affix =
      as_string(arguments.need(0, "prefix", kEnd ? "removesuffix" : "removeprefix"), "an affix");
  if (!(kEnd ? text.ends_with(affix) : text.starts_with(affix))) return self;
  return kEnd ? text.substr(0, text.size() - affix.size()) : text.substr(affix.size());
}

Value replace(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Heap& heap = heap_for(interpreter, self);
  const std::string_view from = as_string(arguments.need(0, "old", "replace"), "replace");
  const std::string_view to = as_string(arguments.need(1, "new", "replace"), "replace");
  const int64_t most = as_integer(arguments.get(2, "count", int64_t{-1}), "replace");
  // What it may become is counted before it is made.
  heap.reserve((text_of(self).size() / std::max<size_t>(from.size(), 1) + 1) * to.size());
  return heap.copy(replaced(text_of(self), from, to, most));
}

template <bool kRight, bool kMust>
Value find_text(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  heap_for(interpreter, self);
  const std::string_view text = text_of(self);
  const std::string_view wanted = as_string(arguments.need(0, "sub", "find"), "find");
  const size_t at = kRight ? text.rfind(wanted) : text.find(wanted);
  if (at == text.npos) {
    if (kMust) throw TemplateError("index: the substring is not found");
    return int64_t{-1};
  }
  return character_count(text.substr(0, at));
}

Value count_text(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  heap_for(interpreter, self);
  const std::string_view text = text_of(self);
  const std::string_view wanted = as_string(arguments.need(0, "sub", "count"), "count");
  if (wanted.empty()) return character_count(text) + 1;
  int64_t count = 0;
  for (size_t at = 0; (at = text.find(wanted, at)) != text.npos; at += wanted.size()) ++count;
  return count;
}

Value join_text(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Heap& heap = interpreter.heap();
  std::string_view result;
  bool first = true;
  for (const Value& part : elements(arguments.need(0, "iterable", "join"), heap)) {
    if (!first) result = heap.join(result, text_of(self));
    result = heap.join(result, as_string(part, "join"));
    first = false;
  }
  return result;
}

// Whether the text is not empty and all its characters are of a kind.
template <bool (*kIs)(char32_t)>
Value all_are(Interpreter& interpreter, const Value& self, const Arguments&) {
  heap_for(interpreter, self);
  const std::string_view text = text_of(self);
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    if (!kIs(c.value)) return false;
    at += static_cast<size_t>(c.bytes);
  }
  return !text.empty();
}

template <bool kUpper>
Value in_case(Interpreter& interpreter, const Value& self, const Arguments&) {
  heap_for(interpreter, self);
  return has_case(text_of(self), kUpper);
}

enum class Side { left, right, both };

template <Side kSide>
Value padded(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Heap& heap = heap_for(interpreter, self);
  const int64_t width = as_integer(arguments.need(0, "width", "padding"), "padding");
  const std::string_view fill =
      as_string(arguments.get(1, "fillchar", std::string_view(" ")), "padding");
  if (character_count(fill) != 1) throw TemplateError("padding needs one character to fill with");
  const int64_t missing = width - character_count(text_of(self));
  if (missing <= 0) return self;
  heap.reserve(static_cast<size_t>(missing) * fill.size());
  heap.spend(missing / 16);
  const int64_t extra = kSide == Side::both && (missing & width & 1) != 0 ? 1 : 0;
  const int64_t left = kSide == Side::left   ? missing
                       : kSide == Side::both ? missing / 2 + extra
                                             : 0;
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += text_of(self);
  for (int64_t i = left; i < missing; ++i) out += fill;
  return heap.copy(out);
}

Value zfill(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Heap& heap = heap_for(interpreter, self);
  const int64_t width = as_integer(arguments.need(0, "width", "zfill"), "zfill");
  const int64_t missing = width - character_count(text_of(self));
  if (missing <= 0) return self;
  heap.reserve(static_cast<size_t>(missing));
  const bool sign = text_of(self).starts_with('-') || text_of(self).starts_with('+');
  std::string out(text_of(self).substr(0, sign ? 1 : 0));
  out.append(static_cast<size_t>(missing), '0').append(text_of(self).substr(sign ? 1 : 0));
  return heap.copy(out);
}

// str.format with {}, {0} and {name}; no format specifications.
Value format_text(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Heap& heap = heap_for(interpreter, self);
  const std::string_view text = text_of(self);
  std::string out;
  size_t next = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if ((c == '{' || c == '}') && text.substr(at + 1).starts_with(c)) {
      out += c;
      ++at;
      continue;
    }
    if (c != '{') {
      out += c;
      continue;
    }
    const size_t end = text.find('}', at);
    if (end == text.npos) throw TemplateError("format: a { without its }");
    const std::string_view field = text.substr(at + 1, end - at - 1);
    if (field.find_first_of(":!.[") != field.npos) {
      throw TemplateError(fmt::format("format: \"{{{}}}\" is not supported: names only", field));
    }
    const bool numbered =
        !field.empty() && field.size() < 4 && field.find_first_not_of("0123456789") == field.npos;
    const size_t index = field.empty() ? next++
                         : numbered    ? std::stoul(std::string(field))
                                       : arguments.positional.size();
    append_str(arguments.need(index, field, "format"), heap, out);
    at = end;
  }
  return heap.copy(out);
}

constexpr bool digit_character(char32_t c) {
  return c >= '0' && c <= '9';
}
bool alphabetic(char32_t c) {
  return is_word(c) && !digit_character(c) && c != '_';
}
bool alphanumeric(char32_t c) {
  return is_word(c) && c != '_';
}

constexpr NamedFunction kStringMethods[] = {
    {"strip", strip<true, true>},
    {"lstrip", strip<true, false>},
    {"rstrip", strip<false, true>},
    {"split", split_text<false>},
    {"rsplit", split_text<true>},
    {"splitlines", splitlines},
    {"partition", partition<false>},
    {"rpartition", partition<true>},
    {"startswith", has_affix<false>},
    {"endswith", has_affix<true>},
    {"removeprefix", remove_affix<false>},
    {"removesuffix", remove_affix<true>},
    {"replace", replace},
    {"find", find_text<false, false>},
    {"rfind", find_text<true, false>},
    {"index", find_text<false, true>},
    {"rindex", find_text<true, true>},
    {"count", count_text},
    {"join", join_text},
    {"upper", mapped<upper>},
    {"lower", mapped<lower>},
    {"casefold", mapped<lower>},
    {"capitalize", mapped<capitalized>},
    {"title", mapped<titled>},
    {"swapcase", mapped<case_swapped>},
    {"isupper", in_case<true>},
    {"islower", in_case<false>},
    {"isdigit", all_are<digit_character>},
    {"isnumeric", all_are<digit_character>},
    {"isdecimal", all_are<digit_character>},
    {"isalpha", all_are<alphabetic>},
    {"isalnum", all_are<alphanumeric>},
    {"isspace", all_are<is_white_space>},
    {"ljust", padded<Side::right>},
    {"rjust", padded<Side::left>},
    {"center", padded<Side::both>},
    {"zfill", zfill},
    {"format", format_text},
};

Dict& dict_of(const Value& self) {
  return *std::get<Dict*>(self);
}

Value dict_get(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Value& key = arguments.need(0, "key", "get");
  const Value* found = find(dict_of(self), key, interpreter.heap());
  return found == nullptr ? arguments.get(1, "default", None{}) : *found;
}

Value dict_items(Interpreter& interpreter, const Value& self, const Arguments&) {
  Heap& heap = interpreter.heap();
  List* list = heap.list();
  for (const auto& [key, value] : dict_of(self).entries) {
    heap.append(*list, heap.tuple({key, value}));
  }
  return list;
}

Value dict_keys(Interpreter& interpreter, const Value& self, const Arguments&) {
  List* list = interpreter.heap().list();
  for (const auto& entry : dict_of(self).entries) interpreter.heap().append(*list, entry.first);
  return list;
}

Value dict_values(Interpreter& interpreter, const Value& self, const Arguments&) {
  List* list = interpreter.heap().list();
  for (const auto& entry : dict_of(self).entries) interpreter.heap().append(*list, entry.second);
  return list;
}

Value dict_copy(Interpreter& interpreter, const Value& self, const Arguments&) {
  Dict* copy = interpreter.heap().dict();
  for (const auto& [key, value] : dict_of(self).entries) interpreter.heap().set(*copy, key, value);
  return copy;
}

constexpr NamedFunction kDictMethods[] = {
    {"get", dict_get},
    {"items", dict_items},
    {"keys", dict_keys},
    {"values", dict_values},
    {"copy", dict_copy},
};

Value list_index(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Value& wanted = arguments.need(0, "value", "index");
  const std::vector<Value>& items = std::get<List*>(self)->items;
  for (size_t i = 0; i < items.size(); ++i) {
    interpreter.heap().spend(1);
    if (equal(items[i], wanted, interpreter.heap())) return static_cast<int64_t>(i);
  }
  throw TemplateError("index: the value is not in the list");
}

Value list_count(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Value& wanted = arguments.need(0, "value", "count");
  int64_t count = 0;
  for (const Value& item : elements(self, interpreter.heap())) {
    count += equal(item, wanted, interpreter.heap()) ? 1 : 0;
  }
  return count;
}

Value list_copy(Interpreter& interpreter, const Value& self, const Arguments&) {
  List* copy = interpreter.heap().list(std::get<List*>(self)->is_tuple);
  for (const Value& item : std::get<List*>(self)->items) interpreter.heap().append(*copy, item);
  return copy;
}

constexpr NamedFunction kListMethods[] = {
    {"index", list_index},
    {"count", list_count},
    {"copy", list_copy},
};

Value loop_cycle(Interpreter&, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty()) throw TemplateError("cycle needs items");
  return arguments.positional[std::get<Loop*>(self)->index % arguments.positional.size()];
}

Value loop_changed(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Loop& loop = *std::get<Loop*>(self);
  const std::vector<Value>& now = arguments.positional;
  const bool same = loop.has_changed && std::equal(
                                            now.begin(),
                                            now.end(),
                                            loop.changed.begin(),
                                            loop.changed.end(),
                                            [&](const Value& a, const Value& b) {
                                              return equal(a, b, interpreter.heap());
                                            }
                                        );
  loop.has_changed = true;
  loop.changed = now;
  return !same;
}

constexpr NamedFunction kLoopMethods[] = {
    {"cycle", loop_cycle},
    {"changed", loop_changed},
};

}  // namespace

Function find_method(const Value& self, std::string_view name) {
  const auto search = [&](const auto& methods) -> Function {
    for (const NamedFunction& method : methods) {
      if (method.name == name) return method.function;
    }
    return nullptr;
  };
  if (is_string(self)) return search(kStringMethods);
  if (is<List*>(self)) return search(kListMethods);
  if (is<Loop*>(self)) return search(kLoopMethods);
  if (is<Dict*>(self) && !std::get<Dict*>(self)->is_namespace) return search(kDictMethods);
  return nullptr;
}

}  // namespace fathom::text::jinja
