#include "fathom/text/json_fields.h"

namespace fathom::text {
namespace {

constexpr size_t kMaxComponents = 256;

Result<void> flatten(const Json& json, const char* list_name, std::vector<const Json*>& out) {
  if (json.is_null()) return {};
  if (!json.is_object()) return error("tokenizer.json: a component of {} is no object", list_name);
  if (string_field(json, "type", "") != "Sequence") {
    out.push_back(&json);
    if (out.size() <= kMaxComponents) return {};
    return error("tokenizer.json: more than {} {}", kMaxComponents, list_name);
  }
  const Json& list = field(json, list_name);
  if (!list.is_array()) return error("tokenizer.json: Sequence without a list \"{}\"", list_name);
  for (const Json& component : list) {
    Result<void> flattened = flatten(component, list_name, out);
    if (!flattened) return flattened;
  }
  return {};
}

}  // namespace

const Json& field(const Json& object, const char* name) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(name);
  return found == object.end() ? kNull : *found;
}

std::string string_field(const Json& object, const char* name, std::string_view otherwise) {
  const Json& value = field(object, name);
  return value.is_string() ? value.get<std::string>() : std::string(otherwise);
}

bool bool_field(const Json& object, const char* name, bool otherwise) {
  const Json& value = field(object, name);
  return value.is_boolean() ? value.get<bool>() : otherwise;
}

int64_t integer_field(const Json& object, const char* name, int64_t otherwise) {
  const Json& value = field(object, name);
  return value.is_number_integer() ? value.get<int64_t>() : otherwise;
}

Result<SplitPattern> parse_pattern(const Json& component, std::string_view what) {
  const Json& pattern = field(component, "pattern");
  SplitPattern parsed{string_field(pattern, "String", ""), string_field(pattern, "Regex", "")};
  if (parsed.literal.empty() == parsed.regex.empty()) {
    return error(
        "tokenizer.json: the pattern of {} must be {{\"String\": ...}} or {{\"Regex\": ...}}, not "
        "empty",
        what
    );
  }
  return parsed;
}

Result<std::vector<const Json*>> flatten_sequence(const Json& json, const char* list_name) {
  std::vector<const Json*> components;
  Result<void> flattened = flatten(json, list_name, components);
  if (!flattened) return flattened.error();
  return components;
}

}  // namespace fathom::text
