// grouped_moe, row few_sm90: both products of one or two tokens by one kernel.
#pragma once

#include "fathom/ops/moe/moe_products.cuh"

namespace fathom::ops {

// False, and nothing launched, where it does not suit: more tokens, more pieces of work than
// processors, or more than the mail has room for.
bool moe_few_fused(Exec& exec, const GroupedMoe& args);

}  // namespace fathom::ops
