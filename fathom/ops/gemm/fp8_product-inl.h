// Products of FP8 weights packed by 32 rows with tokens' FP8 codes, whole: work is split among
// threads, scales go into the sums, a bias behind them. What fp8_block_gemm and the FP8 form of
// w8a8_gemm share.
//
// Few tokens: weights are decoded in registers as they stream by. Many: a block of a panel is
// decoded for all tokens that meet it (fp8_stage-inl.h).
#if defined(FATHOM_OPS_GEMM_FP8_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_FP8_PRODUCT_INL_H_
#undef FATHOM_OPS_GEMM_FP8_PRODUCT_INL_H_
#else
#define FATHOM_OPS_GEMM_FP8_PRODUCT_INL_H_
#endif

#include "fathom/core/exec.h"
#include "fathom/ops/gemm/fp8_panel-inl.h"
#include "fathom/ops/gemm/fp8_stage-inl.h"
#include "fathom/ops/gemm/work_split.h"
#include "fathom/ops/simd/elements-inl.h"
#include "fathom/ops/simd/store-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

inline constexpr int64_t kFp8StagedTokens = 24;  // of a product, from which on they are many

struct Fp8Product {
  Fp8Panels w;
  int64_t rows;            // of w, padding included
  Tensor codes;            // of x, [M, K] f8e4m3
  const float* x_scale;    // [block][token]
  int64_t x_scale_stride;  // 0: a token's blocks share one
  Tensor channel;          // f32 [N], a further factor of each row; undefined: none
  Tensor bias;
  Tensor y;

  const float* scales_of(int64_t block, int64_t token) const {
    return x_scale + block * x_scale_stride + token;
  }
};

// A product as a thread sees it.
struct Fp8Job {
  const Fp8Product& p;
  const void* x;  // few tokens: Fp8Activation [M, K]; many: as pack_fp8_tokens leaves them
};

// The tile of y at token m and row n, its sums at `tile`.
HWY_INLINE void store_fp8_tile(
    const Fp8Product& p, int64_t m, int64_t n, int tokens, int width, float* tile
) {
  if (p.channel.defined()) {
    const F32 d;
    for (int i = 0; i < width; i += kLanes) {
      const int64_t left = std::max<int64_t>(p.channel.dim(0) - n - i, 0);
      const VF factor = load_some(p.channel.as<float>() + n + i, left);
      for (int t = 0; t < tokens; ++t) {
        float* at = tile + t * width + i;
        hn::Store(hn::Load(d, at) * factor, d, at);
      }
    }
  }
  store_tile(p.y, p.bias, m, n, tokens, width, tile);
}

template <int kTokens, int kVectors>
void multiply_fp8_tile(const Fp8Job& job, int64_t n, int64_t m) {
  HWY_ALIGN float tile[kTokens * kVectors * kLanes];
  const Fp8Product& p = job.p;
  prefetch_tile(p.y, m, n, kTokens, kVectors * kLanes);
  const auto* x = static_cast<const Fp8Activation*>(job.x) + m * p.w.K;
  const uint8_t* next = p.w.row_at(n + kVectors * kLanes);
  multiply_fp8<kTokens, kVectors>(p.w, n, x, p.scales_of(0, m), p.x_scale_stride, next, tile);
  store_fp8_tile(p, m, n, kTokens, kVectors * kLanes, tile);
}

// Few tokens against rows of the weights, these from panel to panel.
inline void multiply_few_fp8(const Fp8Job& job, Range tokens, Range rows) {
  int64_t n = rows.begin;
  if (job.p.codes.dim(0) <= kFp8WideTokens) {
    for (; n + kFp8Wide * kLanes <= rows.end; n += kFp8Wide * kLanes) {
      for_tiles<kFp8WideTokens>(tokens.begin, tokens.end, [&](auto count, int64_t m) {
        multiply_fp8_tile<count(), kFp8Wide>(job, n, m);
      });
    }
  }
  for (; n < rows.end; n += kFp8Narrow * kLanes) {
    for_tiles<kFp8MostTokens>(tokens.begin, tokens.end, [&](auto count, int64_t m) {
      multiply_fp8_tile<count(), kFp8Narrow>(job, n, m);
    });
  }
}

// n <= kFp8StageMost tokens from m on against the panel of `row`.
inline void multiply_fp8_panel(const Fp8Job& job, int64_t row, int64_t m, int64_t n) {
  HWY_ALIGN float sums[kFp8StageMost * kPanelRows];
  Fp8Stage stage;
  const Fp8Product& p = job.p;
  const int64_t K = p.w.K;
  const float* w_scale = p.w.scale + row / kFp8Block * p.w.scale_stride;
  std::fill_n(sums, n * kPanelRows, 0.0f);
  for (int64_t b = 0; b < K / kFp8Block; ++b) {
    const bool last = b + 1 == K / kFp8Block;
    stage.fill(p.w.codes + row * K + b * kFp8Block * kPanelRows);
    for_tiles<kFp8StageTokens>(m, m + n, [&](auto tokens, int64_t first) {
      constexpr int kTokens = decltype(tokens)::value;
      const float* x_scale = p.scales_of(b, first);
      float scale[kTokens];
      for (int t = 0; t < kTokens; ++t) scale[t] = w_scale[b] * x_scale[t] * kFp8WeightUnit;
      const int64_t token_units = K / kFp8UnitSize;
      const auto* x =
          static_cast<const Fp8Unit*>(job.x) + first * token_units + b * kFp8BlockUnits * kTokens;
      const Fp8Unit* next = x + kTokens * token_units;
      float* to = sums + (first - m) * kPanelRows;
      // Stored while the next tile is multiplied.
      if (last) prefetch_tile(p.y, first, row, kTokens, kPanelRows);
      multiply_fp8_stage<kTokens>(stage, x, next, scale, to);
      if (last) store_fp8_tile(p, first, row, kTokens, kPanelRows, to);
    });
  }
}

inline void multiply_many_fp8(const Fp8Job& job, Range tokens, Range rows) {
  for (int64_t m = tokens.begin; m < tokens.end; m += kFp8StageMost) {
    const int64_t n = std::min<int64_t>(kFp8StageMost, tokens.end - m);
    for (int64_t row = rows.begin; row < rows.end; row += kPanelRows)
      multiply_fp8_panel(job, row, m, n);
  }
}

// Tokens as the loops read them.
inline void convert_fp8_tokens(const Tensor& codes, Range tokens, void* to) {
  const int64_t K = codes.dim(1);
  if (codes.dim(0) >= kFp8StagedTokens)
    return pack_fp8_tokens(codes, tokens.begin, tokens.end, static_cast<Fp8Unit*>(to));
  for (int64_t m = tokens.begin; m < tokens.end; ++m) {
    const uint8_t* row = codes.as<uint8_t>() + m * codes.stride(0);
    fp8_activations(row, K, static_cast<Fp8Activation*>(to) + m * K);
  }
}

inline void run_fp8_product(Exec& exec, const Fp8Product& p) {
  const int64_t M = p.codes.dim(0), K = p.w.K;
  Workspace::Mark mark(*exec.workspace);
  const WorkSplit split = split_work(M, exec.threads());
  const bool many = M >= kFp8StagedTokens;
  const int64_t grain = many ? kFp8StageTokens : kFp8MostTokens;
  const int64_t copies = split == WorkSplit::rows_own_copy ? exec.threads() : 1;
  const DType dtype = sizeof(Fp8Activation) == 2 ? DType::bf16 : DType::f32;
  const Tensor converted = exec.workspace->alloc(dtype, {copies, M * K});
  if (split == WorkSplit::rows) {
    exec.parallel_for(M, grain, [&](Range tokens) {
      convert_fp8_tokens(p.codes, tokens, converted.data);
    });
  }
  // Two panels at a time, so that few tokens find their four vectors within a block of 128 rows.
  ProductParts parts(split, {M, grain}, {p.rows, 2 * kPanelRows}, exec.threads());
  exec.on_threads([&](int thread, int) {
    const Range tokens = parts.tokens_of(thread);
    if (tokens.begin >= tokens.end) return;
    void* x = copies > 1 ? converted.row(thread).data : converted.data;
    if (split != WorkSplit::rows) convert_fp8_tokens(p.codes, tokens, x);
    const Fp8Job job{p, x};
    parts.each(thread, [&](Range rows) {
      many ? multiply_many_fp8(job, tokens, rows) : multiply_few_fp8(job, tokens, rows);
    });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
