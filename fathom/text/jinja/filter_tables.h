// The two halves of the filters.
#pragma once

#include <span>

#include "fathom/text/jinja/library.h"

namespace fathom::text::jinja {

std::span<const NamedFunction> scalar_filters();    // of one value: text, numbers, JSON
std::span<const NamedFunction> sequence_filters();  // of lists

}  // namespace fathom::text::jinja
