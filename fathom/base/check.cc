#include "fathom/base/check.h"

namespace fathom {

void check_failed(const char* file, int line, const char* condition, std::string what) {
  throw CheckError(fmt::format("{}:{}: CHECK({}) failed: {}", file, line, condition, what));
}

}  // namespace fathom
