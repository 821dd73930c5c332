// Template source to its tree: Jinja 3.1's grammar without inheritance and includes.
#pragma once

#include <string_view>

#include "fathom/text/jinja/ast.h"

namespace fathom::text::jinja {

// A TemplateError with the line where the source is not well formed, uses a tag, filter or test
// that does not exist here, or nests too deep.
Body parse(std::string_view source);

}  // namespace fathom::text::jinja
