// The filters, tests, methods and functions that a template can name, with the meaning that Jinja
// 3.1, Python and transformers give them.
#pragma once

#include <string_view>

#include "fathom/text/jinja/callable.h"

namespace fathom::text::jinja {

struct NamedFunction {
  std::string_view name;
  Function function;
};

// nullptr when there is none of that name. A test's function gives a bool.
Function find_filter(std::string_view name);
Function find_test(std::string_view name);
// raise_exception, range, namespace ...
Function find_global(std::string_view name);
// A method of the value's type.
Function find_method(const Value& self, std::string_view name);

}  // namespace fathom::text::jinja
