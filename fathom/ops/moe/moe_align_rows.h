// The rows of moe_align's kernel table.
#pragma once

#include "fathom/ops/moe/moe_align.h"

namespace fathom::ops {

// A counting sort: the slots are read twice, whatever the number of experts.
void moe_align_counted(Exec& exec, const MoeAlign& args);
// For each expert all slots: what counting is measured against (feature moe_align).
void moe_align_ref(Exec& exec, const MoeAlign& args);

bool moe_align_takes_cuda_sort(const Exec& exec, const MoeAlign& args);
void moe_align_cuda_sort(Exec& exec, const MoeAlign& args);

}  // namespace fathom::ops
