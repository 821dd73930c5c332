// Server-sent events, written by hand: one "data: " line with JSON and an empty line.
#pragma once

#include <string>
#include <string_view>

namespace fathom::server {

// `json` holds no line feed.
void append_event(std::string& out, std::string_view json);
// The event that ends every stream.
void append_done(std::string& out);

}  // namespace fathom::server
