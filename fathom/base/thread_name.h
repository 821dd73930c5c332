// The name of the calling thread as `top -H` and debuggers show it; at most 15 characters.
#pragma once

namespace fathom {

void name_this_thread(const char* name);

}  // namespace fathom
