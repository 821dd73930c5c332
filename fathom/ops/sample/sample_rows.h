// The rows of sample's kernel table.
#pragma once

#include "fathom/ops/sample/sample.h"

namespace fathom::ops {

void sample_ref(Exec& exec, const Sample& args);
// Every row greedy, nothing else wanted: one pass over the logits.
void sample_argmax(Exec& exec, const Sample& args);

}  // namespace fathom::ops
