#include "fathom/base/json.h"

namespace fathom {

Result<Json> parse_json(std::string_view text, std::string_view what, JsonLimits limits) {
  if (text.size() > limits.bytes) {
    return error("{}: {} bytes of JSON, at most {} are read", what, text.size(), limits.bytes);
  }
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > limits.depth)
        return error("{}: JSON nested deeper than {}", what, limits.depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    return error("{}: not valid JSON: {}", what, e.what());
  }
}

}  // namespace fathom
