// Values as text: Python's str and repr, and JSON as Python's json.dumps writes it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "fathom/text/jinja/heap.h"
#include "fathom/text/jinja/value.h"

namespace fathom::text::jinja {

struct JsonStyle {
  bool ascii = false;  // beyond ASCII as \uXXXX
  int indent = -1;     // spaces a level; -1: on one line
  bool sort_keys = false;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// Each appends to `out`. A TemplateError when the value has no such form, nests too deep, or `out`
// grows beyond what the heap has left.
void append_str(const Value& value, Heap& heap, std::string& out);
void append_repr(const Value& value, Heap& heap, std::string& out);
void append_json(const Value& value, const JsonStyle& style, Heap& heap, std::string& out);

// Python's repr of a float: the shortest text that reads back the same.
std::string format_float(double value);

}  // namespace fathom::text::jinja
