// The rows of prefix_pack_fp8's kernel table.
#pragma once

#include "fathom/ops/attention/prefix_pack_fp8.h"

namespace fathom::ops {

void prefix_pack_fp8_ref(Exec& exec, const PrefixPackFp8& args);

void prefix_pack_fp8_cuda_vec(Exec& exec, const PrefixPackFp8& args);

}  // namespace fathom::ops
