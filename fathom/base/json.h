// JSON as nlohmann-json with the order of keys kept (chat templates print tools in their own key
// order). parse_json bounds depth and size, so that foreign bytes cannot exhaust the stack.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "fathom/base/json_fwd.h"
#include "fathom/base/result.h"

namespace fathom {

struct JsonLimits {
  size_t bytes = size_t{256} << 20;
  int depth = 128;
};

// The value of `text`; an Error tells the byte where reading stopped. `what` names the source in
// the message.
Result<Json> parse_json(std::string_view text, std::string_view what, JsonLimits limits = {});

}  // namespace fathom
