// The rows of grouped_moe's kernel table.
#pragma once

#include "fathom/ops/moe/grouped_moe.h"

namespace fathom::ops {

void grouped_moe_gathered(Exec& exec, const GroupedMoe& args);
// Each token's slots apart: what grouping is measured against (feature grouped_moe).
void grouped_moe_by_token(Exec& exec, const GroupedMoe& args);
void grouped_moe_ref(Exec& exec, const GroupedMoe& args);

}  // namespace fathom::ops
