// Products with float weights packed by 32 rows (bf16_gemm.h). Few tokens: weights are widened in
// registers as they stream by. Many: a block of k of a panel is widened once into the second-level
// cache and multiplied with all tokens. Both add the same numbers in the same order.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/gemm/bf16_gemm_simd.cc"
// Nothing here gains from what VNNI levels add.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include <algorithm>

#include "fathom/ops/gemm/bf16_gemm_rows.h"
#include "fathom/ops/gemm/float_panel-inl.h"
#include "fathom/ops/gemm/pack_weight.h"
#include "fathom/ops/gemm/work_split.h"
#include "fathom/ops/simd/lanes-inl.h"
#include "fathom/ops/simd/store-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr int64_t kStagedTokens = 48;  // from here on widening once is cheaper
constexpr int64_t kStagedK = 640;      // k of a widened block: 80 KB
constexpr int64_t kTokensAtOnce = 96;  // that a panel meets before the next: a multiple of tiles

// Rows [from, end) of x as floats, [M, K].
void widen_rows(const Tensor& x, int64_t from, int64_t end, float* to) {
  const int64_t K = x.dim(1);
  for (int64_t m = from; m < end; ++m) {
    const auto* source = static_cast<const uint16_t*>(x.data) + m * x.stride(0);
    float* row = to + m * K;
    int64_t k = 0;
    for (; k + kLanes <= K; k += kLanes) hn::StoreU(load_bf16(source + k), F32(), row + k);
    for (; k < K; ++k) row[k] = bf16_to_float(source[k]);
  }
}

// One panel against all tokens; tile is [M, 32].
template <DType kType>
void multiply_one(
    const uint8_t* panel, int64_t K, const float* x, int64_t stride, int64_t M, float* tile
) {
  if (M < kStagedTokens || kType == DType::f32x32) {
    multiply_panel_tokens<kType>(panel, K, x, stride, M, false, tile);
    return;
  }
  alignas(64) float staged[kStagedK * kPanelRows];
  const int64_t blocks = (K + kStagedK - 1) / kStagedK;
  const int64_t step = ((K + blocks - 1) / blocks + 1) / 2 * 2;
  for (int64_t k = 0; k < K; k += step) {
    const int64_t end = std::min(K, k + step);
    decode_panel<kType>(panel, k, end, staged);
    const auto* bytes = reinterpret_cast<const uint8_t*>(staged);
    multiply_panel_tokens<DType::f32x32>(bytes, end - k, x + k, stride, M, k > 0, tile);
  }
}

using MultiplyOne = void (*)(
    const uint8_t* panel, int64_t K, const float* x, int64_t stride, int64_t M, float* tile
);

MultiplyOne choose(DType packed) {
  if (packed == DType::bf16x32) return multiply_one<DType::bf16x32>;
  if (packed == DType::f16x32) return multiply_one<DType::f16x32>;
  return multiply_one<DType::f32x32>;
}

// One product as a thread sees it: x [M, K] as floats.
struct Job {
  const Bf16Gemm& args;
  const float* x;
  int64_t stride;
  float* tile;  // of this thread: [kTokensAtOnce, 32]
};

void multiply_part(const Job& job, Range tokens, Range rows) {
  const int64_t K = job.args.x.dim(1);
  const int64_t panel_bytes = bytes_of(job.args.weight.dtype, kPanelRows * K);
  const auto* weight = static_cast<const uint8_t*>(job.args.weight.data);
  const MultiplyOne multiply = choose(job.args.weight.dtype);
  for (int64_t m = tokens.begin; m < tokens.end; m += kTokensAtOnce) {
    const int64_t n = std::min<int64_t>(kTokensAtOnce, tokens.end - m);
    for (int64_t row = rows.begin; row < rows.end; row += kPanelRows) {
      const uint8_t* panel = weight + row / kPanelRows * panel_bytes;
      prefetch_tile(job.args.y, m, row, static_cast<int>(n), kPanelRows);
      multiply(panel, K, job.x + m * job.stride, job.stride, n, job.tile);
      store_tile(job.args.y, job.args.bias, m, row, static_cast<int>(n), kPanelRows, job.tile);
    }
  }
}

}  // namespace

void bf16_gemm(Exec& exec, const Bf16Gemm& args) {
  const int64_t M = args.x.dim(0), K = args.x.dim(1);
  const bool widen = args.x.dtype == DType::bf16;
  const WorkSplit split = split_work(M, exec.threads());
  const int64_t copies = split == WorkSplit::rows_own_copy ? exec.threads() : 1;
  Workspace::Mark mark(*exec.workspace);
  const int64_t at_once = std::min(M, kTokensAtOnce);
  const Tensor tiles = exec.workspace->alloc(DType::f32, {exec.threads(), at_once * kPanelRows});
  Tensor wide;  // [copies, M * K]
  if (widen) wide = exec.workspace->alloc(DType::f32, {copies, M * K});
  if (widen && split == WorkSplit::rows) {
    exec.parallel_for(M, 1, [&](Range rows) {
      widen_rows(args.x, rows.begin, rows.end, wide.as<float>());
    });
  }
  ProductParts parts(split, {M, kTokensAtOnce}, {args.weight.dim(0), kPanelRows}, exec.threads());
  exec.on_threads([&](int thread, int) {
    const Range tokens = parts.tokens_of(thread);
    if (tokens.begin >= tokens.end) return;
    float* tile = tiles.as<float>() + thread * tiles.stride(0);
    Job job{args, static_cast<const float*>(args.x.data), args.x.stride(0), tile};
    if (widen) {
      float* copy = wide.as<float>() + (copies > 1 ? thread * wide.stride(0) : 0);
      if (split != WorkSplit::rows) widen_rows(args.x, tokens.begin, tokens.end, copy);
      job.x = copy;
      job.stride = K;
    }
    parts.each(thread, [&](Range rows) { multiply_part(job, tokens, rows); });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
