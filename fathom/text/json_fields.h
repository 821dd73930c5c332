// Reading fields of foreign JSON objects whose types are not known: a field that is absent or of
// another type reads as its default.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "fathom/base/json.h"
#include "fathom/base/result.h"

namespace fathom::text {

std::string string_field(const Json& object, const char* name, std::string_view otherwise);
bool bool_field(const Json& object, const char* name, bool otherwise);
int64_t integer_field(const Json& object, const char* name, int64_t otherwise);
// A null Json when `object` is no object or has no such field.
const Json& field(const Json& object, const char* name);

// The "pattern" of a tokenizer.json component: {"String": s} or {"Regex": r}, exactly one not
// empty.
struct SplitPattern {
  std::string literal;
  std::string regex;
};
Result<SplitPattern> parse_pattern(const Json& component, std::string_view what);

// The components of a tokenizer.json section in order: none for null, those of a (nested)
// {"type": "Sequence", <list_name>: [...]}, else the one itself.
Result<std::vector<const Json*>> flatten_sequence(const Json& json, const char* list_name);

}  // namespace fathom::text
