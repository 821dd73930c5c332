// The values of a template: small handles to data that a Heap owns for the length of one rendering.
// Semantics are Python's, as templates expect them.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace fathom::text::jinja {

// Ends parsing or rendering; caught at ChatTemplate's border.
class TemplateError : public std::runtime_error {
 public:
  // complete: the message needs no line before it.
  explicit TemplateError(const std::string& message, bool complete = false)
      : std::runtime_error(message), complete_(complete) {}

  bool complete() const { return complete_; }

 private:
  bool complete_;
};

struct List;
struct Dict;
struct Loop;
struct Callable;
class Heap;

struct Undefined {
  std::string_view name;  // what was looked for
};
struct None {};

using Value = std::variant<
    Undefined,
    None,
    bool,
    int64_t,
    double,
    std::string_view,
    List*,
    Dict*,
    Loop*,
    Callable*>;

struct List {
  std::vector<Value> items;
  bool is_tuple = false;
};

// Keys keep the order in which they came.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  bool is_namespace = false;  // attributes may be set
};

template <class T>
bool is(const Value& value) {
  return std::holds_alternative<T>(value);
}

inline bool is_string(const Value& value) {
  return is<std::string_view>(value);
}

// Python's name of the value's type, for messages.
std::string_view type_name(const Value& value);

bool is_true(const Value& value);
// a == b; the work is counted.
bool equal(const Value& a, const Value& b, Heap& heap);

// The value's number as a double, or as an integer; a TemplateError when it is none. `what` names
// the place in the message.
double as_number(const Value& value, std::string_view what);
int64_t as_integer(const Value& value, std::string_view what);
std::string_view as_string(const Value& value, std::string_view what);
bool is_number(const Value& value);    // bool, integer or float
bool is_integral(const Value& value);  // bool or integer

// The entry's value, nullptr when there is no such key.
Value* find(Dict& dict, const Value& key, Heap& heap);

}  // namespace fathom::text::jinja
