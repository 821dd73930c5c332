// What a template can call: library functions, methods bound to their object, macros.
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "fathom/text/jinja/ast.h"
#include "fathom/text/jinja/value.h"

namespace fathom::text::jinja {

class Interpreter;
struct Scope;

// Evaluated arguments of a call.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string_view, Value>> keywords;

  // The argument at `index` or called `name`; nullptr when neither is given.
  const Value* find(size_t index, std::string_view name) const;
  // The same; `otherwise` when it is not given.
  Value get(size_t index, std::string_view name, const Value& otherwise) const;
  // The same; a TemplateError when it is not given. `what` is the function's name.
  const Value& need(size_t index, std::string_view name, std::string_view what) const;
};

using Function = Value (*)(Interpreter& interpreter, const Value& self, const Arguments& arguments);

struct Callable {
  std::string_view name;
  Function function = nullptr;   // or
  const Macro* macro = nullptr;  // with the scope that it sees
  Scope* scope = nullptr;
  Value self = {};  // a method's object
};

}  // namespace fathom::text::jinja
