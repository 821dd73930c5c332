// gqa_decode: paged attention for rows that hold one token each (paged_attention.h).
#pragma once

#include "fathom/ops/attention/paged_attention.h"

namespace fathom::ops {

void gqa_decode(Exec& exec, const PagedAttention& args);

const KernelTable<PagedAttention>& gqa_decode_table();

}  // namespace fathom::ops
