// Filters of lists and of what can be iterated.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "fathom/text/jinja/filter_tables.h"
#include "fathom/text/jinja/interpreter.h"
#include "fathom/text/jinja/operators.h"
#include "fathom/text/jinja/strings.h"

namespace fathom::text::jinja {
namespace {

Value list_of(const std::vector<Value>& values, Heap& heap) {
  List* list = heap.list();
  for (const Value& value : values) heap.append(*list, value);
  return list;
}

// value.a.b for "a.b"; numbers are positions.
Value along_path(Interpreter& interpreter, Value value, const Value& path) {
  if (is<int64_t>(path)) return item(value, path, interpreter.heap());
  for (const std::string_view name : split(as_string(path, "an attribute"), ".", -1)) {
    int64_t index = 0;
    const auto [end, failure] = std::from_chars(name.data(), name.data() + name.size(), index);
    const bool numbered = failure == std::errc() && end == name.data() + name.size();
    if (is<Undefined>(value)) {
      throw TemplateError(fmt::format("'{}' is undefined", std::get<Undefined>(value).name));
    }
    value = item(value, numbered ? Value(index) : Value(name), interpreter.heap());
  }
  return value;
}

// What a sort compares: the value or its attribute, strings in lower case unless case counts.
Value sort_key(
    Interpreter& interpreter, const Value& value, const Value& attribute, bool case_sensitive
) {
  const Value key = is<None>(attribute) ? value : along_path(interpreter, value, attribute);
  if (case_sensitive || !is_string(key)) return key;
  return interpreter.heap().copy(lower(std::get<std::string_view>(key)));
}

struct Keyed {
  Value key;
  Value value;
};

std::vector<Keyed> keyed(
    Interpreter& interpreter,
    const std::vector<Value>& values,
    const Value& attribute,
    bool case_sensitive
) {
  std::vector<Keyed> result;
  result.reserve(values.size());
  for (const Value& value : values) {
    result.push_back({sort_key(interpreter, value, attribute, case_sensitive), value});
  }
  return result;
}

// Merges sorted halves, so that a comparison that is no order (NaN) does no harm.
void stable_sort(std::vector<Keyed>& values, bool reverse, Heap& heap) {
  const auto before = [&](const Keyed& a, const Keyed& b) {
    if (equal(a.key, b.key, heap)) return false;  // also of values that have no order
    return reverse ? less(b.key, a.key, heap) : less(a.key, b.key, heap);
  };
  for (size_t width = 1; width < values.size(); width *= 2) {
    std::vector<Keyed> merged;
    for (size_t begin = 0; begin < values.size(); begin += 2 * width) {
      const auto at = [&](size_t i) {
        return values.begin() + static_cast<long>(std::min(i, values.size()));
      };
      std::merge(
          at(begin),
          at(begin + width),
          at(begin + width),
          at(begin + 2 * width),
          std::back_inserter(merged),
          before
      );
    }
    values = std::move(merged);
  }
}

Value length_of(Interpreter&, const Value& value, const Arguments&) {
  return length(value);
}

Value first(Interpreter& interpreter, const Value& value, const Arguments&) {
  const std::vector<Value> all = elements(value, interpreter.heap());
  return all.empty() ? Value(Undefined{"first"}) : all.front();
}

Value last(Interpreter& interpreter, const Value& value, const Arguments&) {
  const std::vector<Value> all = elements(value, interpreter.heap());
  return all.empty() ? Value(Undefined{"last"}) : all.back();
}

Value to_list(Interpreter& interpreter, const Value& value, const Arguments&) {
  return list_of(elements(value, interpreter.heap()), interpreter.heap());
}

Value reverse(Interpreter& interpreter, const Value& value, const Arguments&) {
  if (is_string(value)) {
    return slice(value, None{}, None{}, int64_t{-1}, interpreter.heap());
  }
  std::vector<Value> all = elements(value, interpreter.heap());
  std::reverse(all.begin(), all.end());
  return list_of(all, interpreter.heap());
}

Value join(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  Heap& heap = interpreter.heap();
  const Value separator = arguments.get(0, "d", std::string_view());
  const Value attribute = arguments.get(1, "attribute", None{});
  const std::string_view between = interpreter.to_string(separator);
  std::string_view result;
  bool at_start = true;
  for (const Value& element : elements(value, heap)) {
    const Value part = is<None>(attribute) ? element : along_path(interpreter, element, attribute);
    if (!at_start) result = heap.join(result, between);
    result = heap.join(result, interpreter.to_string(part));
    at_start = false;
  }
  return result;
}

Value items(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  if (is<Undefined>(value)) return interpreter.heap().list();
  if (!is<Dict*>(value)) throw TemplateError("items needs a mapping");
  return find_method(value, "items")(interpreter, value, arguments);
}

Arguments without_first(const Arguments& arguments) {
  Arguments rest = arguments;
  if (!rest.positional.empty()) rest.positional.erase(rest.positional.begin());
  return rest;
}

Value map(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  Heap& heap = interpreter.heap();
  List* result = heap.list();
  if (arguments.positional.empty()) {
    const Value& attribute = arguments.need(0, "attribute", "map");
    const Value otherwise = arguments.get(1, "default", None{});
    for (const Value& element : elements(value, heap)) {
      const Value found = along_path(interpreter, element, attribute);
      const bool missing = is<Undefined>(found) && !is<None>(otherwise);
      heap.append(*result, missing ? otherwise : found);
    }
    return result;
  }
  const std::string_view name = as_string(arguments.positional[0], "map");
  const Function filter = find_filter(name);
  if (filter == nullptr) throw TemplateError(fmt::format("map: there is no filter \"{}\"", name));
  const Arguments rest = without_first(arguments);
  for (const Value& element : elements(value, heap)) {
    heap.append(*result, filter(interpreter, element, rest));
  }
  return result;
}

// select, reject and their forms that look at an attribute: those for which the test (truth when
// none is named) gives `kWanted`.
template <bool kWanted, bool kByAttribute>
Value select(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  Heap& heap = interpreter.heap();
  Arguments rest = arguments;
  Value attribute = None{};
  if (kByAttribute) {
    attribute = arguments.need(0, "attr", "selectattr");
    rest = without_first(rest);
  }
  Function test = nullptr;
  if (!rest.positional.empty()) {
    const std::string_view name = as_string(rest.positional[0], "select");
    test = find_test(name);
    if (test == nullptr) throw TemplateError(fmt::format("there is no test \"{}\"", name));
    rest = without_first(rest);
  }
  List* result = heap.list();
  for (const Value& element : elements(value, heap)) {
    const Value tested = kByAttribute ? along_path(interpreter, element, attribute) : element;
    const bool holds = is_true(test == nullptr ? tested : test(interpreter, tested, rest));
    if (holds == kWanted) heap.append(*result, element);
  }
  return result;
}

Value sort(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  Heap& heap = interpreter.heap();
  const bool backwards = is_true(arguments.get(0, "reverse", false));
  const bool case_sensitive = is_true(arguments.get(1, "case_sensitive", false));
  const Value attribute = arguments.get(2, "attribute", None{});
  std::vector<Keyed> values = keyed(interpreter, elements(value, heap), attribute, case_sensitive);
  stable_sort(values, backwards, heap);
  List* result = heap.list();
  for (const Keyed& entry : values) heap.append(*result, entry.value);
  return result;
}

Value sort_dict(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  Heap& heap = interpreter.heap();
  const bool case_sensitive = is_true(arguments.get(0, "case_sensitive", false));
  const std::string_view by =
      as_string(arguments.get(1, "by", std::string_view("key")), "dictsort");
  const bool backwards = is_true(arguments.get(2, "reverse", false));
  if (by != "key" && by != "value") throw TemplateError("dictsort: by is key or value");
  const Value pairs = items(interpreter, value, {});
  std::vector<Keyed> values = keyed(
      interpreter, std::get<List*>(pairs)->items, int64_t{by == "key" ? 0 : 1}, case_sensitive
  );
  stable_sort(values, backwards, heap);
  List* result = heap.list();
  for (const Keyed& entry : values) heap.append(*result, entry.value);
  return result;
}

Value unique(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  Heap& heap = interpreter.heap();
  const bool case_sensitive = is_true(arguments.get(0, "case_sensitive", false));
  const Value attribute = arguments.get(1, "attribute", None{});
  List* result = heap.list();
  std::vector<Value> seen;
  for (const Keyed& entry : keyed(interpreter, elements(value, heap), attribute, case_sensitive)) {
    heap.spend(static_cast<int64_t>(seen.size()));
    const bool known = std::any_of(seen.begin(), seen.end(), [&](const Value& key) {
      return equal(key, entry.key, heap);
    });
    if (known) continue;
    seen.push_back(entry.key);
    heap.append(*result, entry.value);
  }
  return result;
}

Value group_by(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  Heap& heap = interpreter.heap();
  const Value& attribute = arguments.need(0, "attribute", "groupby");
  std::vector<Keyed> values = keyed(interpreter, elements(value, heap), attribute, false);
  stable_sort(values, false, heap);
  List* groups = heap.list();
  for (size_t i = 0; i < values.size(); ++i) {
    if (i == 0 || !equal(values[i].key, values[i - 1].key, heap)) {
      const Value grouper = along_path(interpreter, values[i].value, attribute);
      heap.append(*groups, heap.tuple({grouper, heap.list()}));
    }
    const List& group = *std::get<List*>(groups->items.back());
    heap.append(*std::get<List*>(group.items[1]), values[i].value);
  }
  return groups;
}

template <bool kLargest>
Value extreme(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const bool case_sensitive = is_true(arguments.get(0, "case_sensitive", false));
  const Value attribute = arguments.get(1, "attribute", None{});
  const std::vector<Keyed> values =
      keyed(interpreter, elements(value, interpreter.heap()), attribute, case_sensitive);
  if (values.empty()) return Undefined{kLargest ? "max" : "min"};
  const Keyed* best = &values[0];
  for (const Keyed& entry : values) {
    const bool better = kLargest ? less(best->key, entry.key, interpreter.heap())
                                 : less(entry.key, best->key, interpreter.heap());
    if (better) best = &entry;
  }
  return best->value;
}

Value sum(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const Value attribute = arguments.get(0, "attribute", None{});
  Value total = arguments.get(1, "start", int64_t{0});
  for (const Value& element : elements(value, interpreter.heap())) {
    const Value term = is<None>(attribute) ? element : along_path(interpreter, element, attribute);
    total = binary("+", total, term, interpreter.heap());
  }
  return total;
}

Value batch(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  Heap& heap = interpreter.heap();
  const int64_t size = as_integer(arguments.need(0, "linecount", "batch"), "batch");
  const Value fill = arguments.get(1, "fill_with", None{});
  if (size < 1 || size > 100'000) throw TemplateError("batch: the size is beyond 1 .. 100000");
  List* batches = heap.list();
  List* current = nullptr;
  for (const Value& element : elements(value, heap)) {
    if (current == nullptr || static_cast<int64_t>(current->items.size()) == size) {
      heap.append(*batches, current = heap.list());
    }
    heap.append(*current, element);
  }
  while (current != nullptr && !is<None>(fill) && static_cast<int64_t>(current->items.size()) < size
  ) {
    heap.append(*current, fill);
  }
  return batches;
}

Value attribute_of(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  return interpreter.attribute(value, as_string(arguments.need(0, "name", "attr"), "attr"));
}

constexpr NamedFunction kFilters[] = {
    {"length", length_of},
    {"count", length_of},
    {"first", first},
    {"last", last},
    {"list", to_list},
    {"reverse", reverse},
    {"join", join},
    {"items", items},
    {"map", map},
    {"select", select<true, false>},
    {"reject", select<false, false>},
    {"selectattr", select<true, true>},
    {"rejectattr", select<false, true>},
    {"sort", sort},
    {"dictsort", sort_dict},
    {"unique", unique},
    {"groupby", group_by},
    {"min", extreme<false>},
    {"max", extreme<true>},
    {"sum", sum},
    {"batch", batch},
    {"attr", attribute_of},
};

}  // namespace

std::span<const NamedFunction> sequence_filters() {
  return kFilters;
}

}  // namespace fathom::text::jinja
