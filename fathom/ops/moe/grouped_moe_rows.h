// The rows of grouped_moe's kernel table.
#pragma once

#include "fathom/ops/gemm/w8a8_gemm.h"
#include "fathom/ops/moe/grouped_moe.h"

namespace fathom::ops {

// CUDA: tiled weights (ops/gemm/weight_tiles.h; FP8 in blocks, with quantised activations), bf16 x.
// Up to 8 tokens; any number.
bool grouped_moe_takes_few_sm90(const Exec& exec, const GroupedMoe& args);
void grouped_moe_few_sm90(Exec& exec, const GroupedMoe& args);
bool grouped_moe_takes_tile_sm90(const Exec& exec, const GroupedMoe& args);
void grouped_moe_tile_sm90(Exec& exec, const GroupedMoe& args);
int64_t grouped_moe_tile_scratch_bytes(const MoeSize& size);
// CUDA: plain and tiled weights.
bool grouped_moe_takes_cuda_plain(const Exec& exec, const GroupedMoe& args);
void grouped_moe_cuda_plain(Exec& exec, const GroupedMoe& args);

// CPU, few tokens, f32: all experts of a step in two parallel runs, between which h lies quantised.
// The same bits as `gathered`. One per instruction level, named by Highway; FP8's of AVX3_DL needs
// bf16 dot products too. int8's take C and I that are multiples of kMoeInt8Rows.
inline constexpr int64_t kMoeFewTokens = 32;
inline constexpr int64_t kMoeInt8Rows = 64;
namespace N_AVX2 {
void grouped_moe_few_fp8(Exec& exec, const GroupedMoe& args);
void grouped_moe_few_int8(Exec& exec, const GroupedMoe& args);
}  // namespace N_AVX2
namespace N_AVX3 {
void grouped_moe_few_fp8(Exec& exec, const GroupedMoe& args);
void grouped_moe_few_int8(Exec& exec, const GroupedMoe& args);
}  // namespace N_AVX3
namespace N_AVX3_DL {
void grouped_moe_few_fp8(Exec& exec, const GroupedMoe& args);
void grouped_moe_few_int8(Exec& exec, const GroupedMoe& args);
}  // namespace N_AVX3_DL
namespace N_NEON {
void grouped_moe_few_fp8(Exec& exec, const GroupedMoe& args);
void grouped_moe_few_int8(Exec& exec, const GroupedMoe& args);
}  // namespace N_NEON

void grouped_moe_gathered(Exec& exec, const GroupedMoe& args);
// Each token's slots apart: what grouping is measured against (feature grouped_moe).
void grouped_moe_by_token(Exec& exec, const GroupedMoe& args);
void grouped_moe_ref(Exec& exec, const GroupedMoe& args);

}  // namespace fathom::ops
