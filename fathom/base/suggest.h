// The known name nearest to a misspelt one, by edit distance; "" when there are no names.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace fathom {

std::string nearest(std::string_view wrong, std::span<const std::string_view> names);

}  // namespace fathom
