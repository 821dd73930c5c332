// The one place that reads the environment.
#pragma once

#include <string>

namespace fathom {

// Where fetched models are kept: $XDG_CACHE_HOME/fathom, else $HOME/.cache/fathom, else
// /tmp/fathom.
std::string cache_directory();

}  // namespace fathom
