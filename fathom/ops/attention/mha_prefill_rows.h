// The rows of mha_prefill's kernel table.
#pragma once

#include "fathom/ops/attention/mha_prefill.h"

namespace fathom::ops {

void mha_prefill_ref(Exec& exec, const PagedAttention& args);
bool mha_prefill_takes_sm90(const Exec& exec, const PagedAttention& args);
void mha_prefill_sm90(Exec& exec, const PagedAttention& args);

}  // namespace fathom::ops
