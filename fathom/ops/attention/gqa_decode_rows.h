// The rows of gqa_decode's kernel table.
#pragma once

#include "fathom/ops/attention/gqa_decode.h"

namespace fathom::ops {

void gqa_decode_ref(Exec& exec, const PagedAttention& args);
bool gqa_decode_takes_split(const Exec& exec, const PagedAttention& args);
void gqa_decode_split(Exec& exec, const PagedAttention& args);

}  // namespace fathom::ops
