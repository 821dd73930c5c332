#include "fathom/server/sse.h"

namespace fathom::server {

void append_event(std::string& out, std::string_view json) {
  out += "data: ";
  out += json;
  out += "\n\n";
}

void append_done(std::string& out) {
  append_event(out, "[DONE]");
}

}  // namespace fathom::server
