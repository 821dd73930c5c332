// The rows of mla_decode's kernel table.
#pragma once

#include "fathom/ops/attention/mla_decode.h"

namespace fathom::ops {

void mla_decode_ref(Exec& exec, const MlaDecode& args);

}  // namespace fathom::ops
