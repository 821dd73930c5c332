#include "fathom/base/config.h"

#include <cstdlib>

namespace fathom {

std::string cache_directory() {
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && *xdg != '\0') {
    return std::string(xdg) + "/fathom";
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') {
    return std::string(home) + "/.cache/fathom";
  }
  return "/tmp/fathom";
}

}  // namespace fathom
