// Which cases of an op a bench takes.
#pragma once

#include <fnmatch.h>

#include <string>

#include "fathom/testing/op_case.h"

namespace fathom {

// `pattern`: a case's name, or a shell pattern of names, extended as in bash; "": every case marked
// for the bench.
inline bool takes_case(const std::string& pattern, const testing::ErasedCase& c) {
  return pattern.empty() ? c.bench : fnmatch(pattern.c_str(), c.name.c_str(), FNM_EXTMATCH) == 0;
}

}  // namespace fathom
