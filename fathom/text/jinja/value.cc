#include "fathom/text/jinja/value.h"

#include <fmt/format.h>

#include <algorithm>

#include "fathom/text/jinja/heap.h"

namespace fathom::text::jinja {
namespace {

constexpr int kMaxDepth = 200;  // of containers in containers

bool equal_at(const Value& a, const Value& b, Heap& heap, int depth);

bool equal_lists(const List& a, const List& b, Heap& heap, int depth) {
  return &a == &b || (a.is_tuple == b.is_tuple && std::equal(
                                                      a.items.begin(),
                                                      a.items.end(),
                                                      b.items.begin(),
                                                      b.items.end(),
                                                      [&](const Value& x, const Value& y) {
                                                        return equal_at(x, y, heap, depth + 1);
                                                      }
                                                  ));
}

bool equal_dicts(Dict& a, Dict& b, Heap& heap, int depth) {
  if (&a == &b) return true;
  if (a.is_namespace || b.is_namespace || a.entries.size() != b.entries.size()) return false;
  return std::all_of(a.entries.begin(), a.entries.end(), [&](const auto& entry) {
    const Value* other = find(b, entry.first, heap);
    return other != nullptr && equal_at(entry.second, *other, heap, depth + 1);
  });
}

bool equal_at(const Value& a, const Value& b, Heap& heap, int depth) {
  if (depth > kMaxDepth) throw TemplateError("a value nests too deep to be compared");
  if (is_integral(a) && is_integral(b)) return as_integer(a, "==") == as_integer(b, "==");
  if (is_number(a) && is_number(b)) return as_number(a, "==") == as_number(b, "==");
  if (a.index() != b.index()) return false;
  if (is_string(a)) return std::get<std::string_view>(a) == std::get<std::string_view>(b);
  heap.spend(1);
  if (is<List*>(a)) return equal_lists(*std::get<List*>(a), *std::get<List*>(b), heap, depth);
  if (is<Dict*>(a)) return equal_dicts(*std::get<Dict*>(a), *std::get<Dict*>(b), heap, depth);
  if (is<Loop*>(a)) return std::get<Loop*>(a) == std::get<Loop*>(b);
  if (is<Callable*>(a)) return std::get<Callable*>(a) == std::get<Callable*>(b);
  return true;  // undefined or none
}

}  // namespace

std::string_view type_name(const Value& value) {
  constexpr std::string_view kNames[] = {
      "undefined", "NoneType", "bool", "int", "float", "str", "list", "dict", "loop", "function"};
  if (const auto* list = std::get_if<List*>(&value); list != nullptr && (*list)->is_tuple) {
    return "tuple";
  }
  return kNames[value.index()];
}

bool is_true(const Value& value) {
  struct Truth {
    bool operator()(Undefined) const { return false; }
    bool operator()(None) const { return false; }
    bool operator()(bool v) const { return v; }
    bool operator()(int64_t v) const { return v != 0; }
    bool operator()(double v) const { return v != 0; }
    bool operator()(std::string_view v) const { return !v.empty(); }
    bool operator()(const List* v) const { return !v->items.empty(); }
    bool operator()(const Dict* v) const { return v->is_namespace || !v->entries.empty(); }
    bool operator()(const Loop*) const { return true; }
    bool operator()(const Callable*) const { return true; }
  };
  return std::visit(Truth{}, value);
}

bool is_integral(const Value& value) {
  return is<bool>(value) || is<int64_t>(value);
}

bool is_number(const Value& value) {
  return is_integral(value) || is<double>(value);
}

int64_t as_integer(const Value& value, std::string_view what) {
  if (const bool* v = std::get_if<bool>(&value)) return *v ? 1 : 0;
  if (const int64_t* v = std::get_if<int64_t>(&value)) return *v;
  throw TemplateError(fmt::format("{} needs an integer, not {}", what, type_name(value)));
}

double as_number(const Value& value, std::string_view what) {
  if (const double* v = std::get_if<double>(&value)) return *v;
  if (is_integral(value)) return static_cast<double>(as_integer(value, what));
  throw TemplateError(fmt::format("{} needs a number, not {}", what, type_name(value)));
}

std::string_view as_string(const Value& value, std::string_view what) {
  if (const auto* v = std::get_if<std::string_view>(&value)) return *v;
  throw TemplateError(fmt::format("{} needs a string, not {}", what, type_name(value)));
}

bool equal(const Value& a, const Value& b, Heap& heap) {
  return equal_at(a, b, heap, 0);
}

Value* find(Dict& dict, const Value& key, Heap& heap) {
  heap.spend(static_cast<int64_t>(dict.entries.size() / 8));
  for (auto& [name, value] : dict.entries) {
    if (equal(name, key, heap)) return &value;
  }
  return nullptr;
}

}  // namespace fathom::text::jinja
