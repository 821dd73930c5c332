// The vector rows that gqa_decode and mha_prefill share, one per instruction level; they agree bit
// for bit between the two ops.
#pragma once

#include "fathom/ops/attention/paged_attention.h"

namespace fathom::ops {

inline constexpr int kAttendMaxDim = 256;

// Head sizes that are multiples of 16 up to 256, at most 16 query heads to a key head.
inline bool attend_simd_takes(const PagedAttention& args) {
  const int64_t D = args.keys.dim(3), Dv = args.values.dim(3);
  return D % 16 == 0 && Dv % 16 == 0 && D <= kAttendMaxDim && Dv <= kAttendMaxDim &&
         args.q.dim(1) / args.keys.dim(1) <= 16;
}

namespace N_AVX2 {
void attend(Exec& exec, const PagedAttention& args);
}
namespace N_AVX3 {
void attend(Exec& exec, const PagedAttention& args);
}
namespace N_NEON {
void attend(Exec& exec, const PagedAttention& args);
}

}  // namespace fathom::ops
