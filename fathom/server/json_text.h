// JSON as text.
#pragma once

#include <string>
#include <string_view>

#include "fathom/base/json.h"

namespace fathom::server {

// Compact. Bytes that are no UTF-8 (only a client's own, such as its rid) become U+FFFD.
std::string dump(const Json& json);

// `text`, whole UTF-8, as a JSON string with its quotes. It never holds a line feed.
void append_json_string(std::string& out, std::string_view text);

}  // namespace fathom::server
