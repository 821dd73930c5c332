// One query row of paged attention: what the references of gqa_decode and mha_prefill share, so
// that they agree bit for bit.
#pragma once

#include "fathom/ops/attention/paged_attention.h"

namespace fathom::ops {

// Every (token, head) of args.rows, on exec's threads.
void attend_rows(const Exec& exec, const PagedAttention& args);

}  // namespace fathom::ops
