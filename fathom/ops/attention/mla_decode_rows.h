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
namespace N_AVX3_DL {
// Queries and weights rounded to bf16 (feature bf16_activations). A bf16 cache; L + R a multiple of
// 32. Needs bf16 dot products too.
void mla_decode_rounded(Exec& exec, const MlaDecode& args);
}  // namespace N_AVX3_DL
namespace N_NEON {
void mla_decode(Exec& exec, const MlaDecode& args);
}

void mla_decode_ref(Exec& exec, const MlaDecode& args);

// BF16 queries, rows of BF16 or FP8, a latent of 512 + 64. bool: whether the row takes the
// arguments.
bool mla_decode_takes_sm90(const Exec& exec, const MlaDecode& args);
void mla_decode_sm90(Exec& exec, const MlaDecode& args);
bool mla_decode_takes_cuda_plain(const Exec& exec, const MlaDecode& args);
void mla_decode_cuda_plain(Exec& exec, const MlaDecode& args);

}  // namespace fathom::ops
