// gqa_decode and mha_prefill, row cuda_plain: any dtypes, pages, window and sinks; heads of at most
// 256 elements. Correct, and slow.
#pragma once

#include "fathom/ops/attention/paged_attention.h"

namespace fathom::ops {

bool attend_plain_takes(const Exec& exec, const PagedAttention& args);
void attend_plain(Exec& exec, const PagedAttention& args);

}  // namespace fathom::ops
