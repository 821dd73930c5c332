// The rows of w8a8_gemm's kernel table.
#pragma once

#include "fathom/ops/gemm/w8a8_gemm.h"
#include "fathom/ops/quant/row_codes.h"

namespace fathom::ops {

void w8a8_gemm_ref(Exec& exec, const W8a8Gemm& args);

// CUDA: tiled weights, up to 16 tokens, and any number; M x K bytes of workspace for codes of x.
bool w8a8_gemm_takes_skinny(const Exec& exec, const W8a8Gemm& args);
void w8a8_gemm_skinny(Exec& exec, const W8a8Gemm& args);
bool w8a8_gemm_takes_tile(const Exec& exec, const W8a8Gemm& args);
void w8a8_gemm_tile_sm90(Exec& exec, const W8a8Gemm& args);
// Of many tokens' codes, FP8.
void w8a8_gemm_fp8_tiles(Exec& exec, const W8a8Gemm& args, const RowCodes& x);

// Packed weights, int8 and FP8; one per instruction level, named by Highway.
namespace N_AVX2 {
void w8a8_gemm(Exec& exec, const W8a8Gemm& args);
void w8a8_gemm_fp8(Exec& exec, const W8a8Gemm& args);
}  // namespace N_AVX2
namespace N_AVX3 {
void w8a8_gemm(Exec& exec, const W8a8Gemm& args);
void w8a8_gemm_fp8(Exec& exec, const W8a8Gemm& args);
}  // namespace N_AVX3
namespace N_AVX3_DL {
void w8a8_gemm(Exec& exec, const W8a8Gemm& args);
void w8a8_gemm_fp8(Exec& exec, const W8a8Gemm& args);
}  // namespace N_AVX3_DL
namespace N_NEON {
void w8a8_gemm(Exec& exec, const W8a8Gemm& args);
void w8a8_gemm_fp8(Exec& exec, const W8a8Gemm& args);
}  // namespace N_NEON

}  // namespace fathom::ops
