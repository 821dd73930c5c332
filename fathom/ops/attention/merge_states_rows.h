// The rows of merge_states's kernel table.
#pragma once

#include "fathom/ops/attention/merge_states.h"

namespace fathom::ops {

void merge_states_ref(Exec& exec, const MergeStates& args);

void merge_states_cuda_vec(Exec& exec, const MergeStates& args);

}  // namespace fathom::ops
