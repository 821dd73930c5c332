// The rows of mla_decode's kernel table.
#pragma once

#include "fathom/ops/attention/mla_decode.h"

namespace fathom::ops {

// What the vector rows take: L a multiple of 64, L + R of 16, at most kMlaMaxRow.
inline constexpr int64_t kMlaMaxRow = 576;
inline constexpr int64_t kMlaHeads = 16;  // of a query, that share decoded rows
inline constexpr int64_t kMlaBlock = 16;  // positions

// One per instruction level, named by Highway.
namespace N_AVX2 {
void mla_decode(Exec& exec, const MlaDecode& args);
}
namespace N_AVX3 {
void mla_decode(Exec& exec, const MlaDecode& args);
}
namespace N_NEON {
void mla_decode(Exec& exec, const MlaDecode& args);
}

void mla_decode_ref(Exec& exec, const MlaDecode& args);

}  // namespace fathom::ops
