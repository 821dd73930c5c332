// The rows of bf16_gemm's kernel table.
#pragma once

#include "fathom/ops/gemm/bf16_gemm.h"

namespace fathom::ops {

void bf16_gemm_ref(Exec& exec, const Bf16Gemm& args);

// x and plain weights of bf16 that TMA boxes can bring: rows of 16-byte pieces.
inline bool bf16_gemm_in_boxes(const Bf16Gemm& args) {
  const auto fits = [](const Tensor& t) {
    return t.dtype == DType::bf16 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 &&
           t.stride(0) % 8 == 0;
  };
  return fits(args.x) && fits(args.weight);
}

// CUDA: bf16 x and plain bf16 weights, one token, K at most 16,384.
bool bf16_gemm_takes_gemv(const Exec& exec, const Bf16Gemm& args);
void bf16_gemm_gemv(Exec& exec, const Bf16Gemm& args);
// CUDA: bf16 x and plain bf16 weights, M <= 16, many outputs, K a multiple of 64 and at most 4,096;
// weights are on their way before the predecessor has ended.
bool bf16_gemm_takes_resident(const Exec& exec, const Bf16Gemm& args);
void bf16_gemm_resident(Exec& exec, const Bf16Gemm& args);
// CUDA: bf16 x and plain bf16 weights, M <= 128, K a multiple of 64.
bool bf16_gemm_takes_few(const Exec& exec, const Bf16Gemm& args);
void bf16_gemm_few_sm90(Exec& exec, const Bf16Gemm& args);
// CUDA: bf16 x and plain bf16 weights, any number of tokens.
bool bf16_gemm_takes_tile(const Exec& exec, const Bf16Gemm& args);
void bf16_gemm_tile_sm90(Exec& exec, const Bf16Gemm& args);

// CUDA: every plain float type.
bool bf16_gemm_takes_cuda_plain(const Exec& exec, const Bf16Gemm& args);
void bf16_gemm_cuda_plain(Exec& exec, const Bf16Gemm& args);

// How the row few_sm90 cuts its work: a CTA has a group of so many outputs, or a part of K of one;
// the parts of a group are a cluster.
inline constexpr int kFewOutputs = 64;
struct FewPlan {
  int parts = 1;       // 1 to 8
  bool whole = false;  // a CTA has a processor for itself, or half of one
};
FewPlan plan_few(int64_t tokens, int64_t outputs, int64_t K, int processors);

// Packed weights; one per instruction level, named by Highway.
namespace N_AVX2 {
void bf16_gemm(Exec& exec, const Bf16Gemm& args);
}
namespace N_AVX3 {
void bf16_gemm(Exec& exec, const Bf16Gemm& args);
}
namespace N_NEON {
void bf16_gemm(Exec& exec, const Bf16Gemm& args);
}

// Weights bf16x32, x rounded to bf16 (feature bf16_activations).
namespace N_AVX3_DL {
void bf16_gemm_rounded(Exec& exec, const Bf16Gemm& args);
}

}  // namespace fathom::ops
