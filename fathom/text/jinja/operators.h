// Python's operators on values.
#pragma once

#include <string_view>

#include "fathom/text/jinja/ast.h"
#include "fathom/text/jinja/heap.h"
#include "fathom/text/jinja/value.h"

namespace fathom::text::jinja {

// op is one of + - * / // % **.
Value binary(std::string_view op, const Value& a, const Value& b, Heap& heap);
Value negative(const Value& value);

bool compare(Comparison comparison, const Value& a, const Value& b, Heap& heap);
// a < b of numbers, strings or lists; a TemplateError for other types.
bool less(const Value& a, const Value& b, Heap& heap);

// The elements of a list, the keys of a dict, the characters of a string, none of an undefined
// value; a TemplateError for what cannot be iterated.
std::vector<Value> elements(const Value& value, Heap& heap);
// len().
int64_t length(const Value& value);
int64_t character_count(std::string_view text);

// value[index]; an undefined value when there is none.
Value item(const Value& value, const Value& index, Heap& heap);
// value[start:stop:step], each None when left out.
Value slice(
    const Value& value, const Value& start, const Value& stop, const Value& step, Heap& heap
);

}  // namespace fathom::text::jinja
