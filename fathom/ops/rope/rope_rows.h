// The rows of rope's kernel table.
#pragma once

#include "fathom/ops/rope/rope.h"

namespace fathom::ops {

void rope_ref(Exec& exec, const Rope& args);
void rope_cuda_vec(Exec& exec, const Rope& args);

// Head sizes that the vector rows take.
inline constexpr int kRopeMaxDim = 256;
inline bool rope_simd_takes(const Rope& args) {
  return args.q.dim(2) % 32 == 0 && args.q.dim(2) <= kRopeMaxDim;
}

// One per instruction level, named by Highway; they agree bit for bit.
namespace N_AVX2 {
void rope(Exec& exec, const Rope& args);
}
namespace N_AVX3 {
void rope(Exec& exec, const Rope& args);
}
namespace N_NEON {
void rope(Exec& exec, const Rope& args);
}

}  // namespace fathom::ops
