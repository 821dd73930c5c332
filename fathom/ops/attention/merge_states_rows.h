// The rows of merge_states's kernel table.
#pragma once

#include "fathom/ops/attention/merge_states.h"

namespace fathom::ops {

void merge_states_ref(Exec& exec, const MergeStates& args);

// CPU. One per instruction level,
// named by Highway; they agree bit for bit.
namespace N_AVX2 {
void merge_states(Exec& exec, const MergeStates& args);
}
namespace N_AVX3 {
void merge_states(Exec& exec, const MergeStates& args);
}
namespace N_NEON {
void merge_states(Exec& exec, const MergeStates& args);
}

void merge_states_cuda_vec(Exec& exec, const MergeStates& args);

}  // namespace fathom::ops
