// mha_prefill: paged attention for rows of any number of tokens (paged_attention.h): chunks of
// prompts, whose earlier positions are already in the cache.
#pragma once

#include "fathom/ops/attention/paged_attention.h"

namespace fathom::ops {

void mha_prefill(Exec& exec, const PagedAttention& args);

const KernelTable<PagedAttention>& mha_prefill_table();

}  // namespace fathom::ops
