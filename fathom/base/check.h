// CHECK(condition, "format", args...): a programmer's error. Always on. Throws CheckError with the
// condition, the place and the values. In the deciding tower the step loop catches it and fails the
// requests concerned; in the doing tower it stops the replica (docs/architecture.md, Errors).
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>

namespace fathom {

class CheckError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] void check_failed(const char* file, int line, const char* condition, std::string what);

}  // namespace fathom

#define CHECK(condition, ...)                                                             \
  do {                                                                                    \
    if (!(condition)) [[unlikely]]                                                        \
      ::fathom::check_failed(__FILE__, __LINE__, #condition, ::fmt::format(__VA_ARGS__)); \
  } while (false)
