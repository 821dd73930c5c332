// fp8_block_gemm on vectors, weights packed by 32 rows (fp8_panel-inl.h). One source, compiled for
// AVX2, AVX-512, AVX-512 with VBMI and bf16 dot products, and NEON.
//
// Few tokens: weights are decoded in registers as they stream by. Many: a block of a panel is
// decoded for all tokens that meet it (fp8_stage-inl.h).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/gemm/fp8_block_gemm_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/gemm/fp8_block_gemm_rows.h"
#include "fathom/ops/gemm/fp8_panel-inl.h"
#include "fathom/ops/gemm/fp8_stage-inl.h"
#include "fathom/ops/gemm/work_split.h"
#include "fathom/ops/simd/store-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr int64_t kStagedTokens = 24;  // of a product, from which on they are many

// Activations and tokens of one call.
struct Job {
  const Fp8BlockGemm& args;
  Fp8Panels w;
  const void* x;  // few tokens: Fp8Activation [M, K]; many: as pack_fp8_tokens leaves them
};

template <int kTokens, int kVectors>
void multiply_tile(const Job& job, int64_t n, int64_t m) {
  HWY_ALIGN float tile[kTokens * kVectors * kLanes];
  const Fp8BlockGemm& args = job.args;
  prefetch_tile(args.y, m, n, kTokens, kVectors * kLanes);
  const float* x_scale = args.x_scale.as<float>() + m;
  const auto* x = static_cast<const Fp8Activation*>(job.x) + m * job.w.K;
  const uint8_t* next = job.w.row_at(n + kVectors * kLanes);
  multiply_fp8<kTokens, kVectors>(job.w, n, x, x_scale, args.x_scale.stride(0), next, tile);
  store_tile(args.y, {}, m, n, kTokens, kVectors * kLanes, tile);
}

// Tokens [m, end) against kFp8Narrow vectors of rows.
void multiply_rows(const Job& job, int64_t n, int64_t m, int64_t end) {
  for_tiles<kFp8MostTokens>(m, end, [&](auto tokens, int64_t first) {
    multiply_tile<tokens(), kFp8Narrow>(job, n, first);
  });
}

// Few tokens against rows of the weights, these from panel to panel.
void multiply_few(const Job& job, Range tokens, Range rows) {
  int64_t n = rows.begin;
  if (job.args.x.dim(0) <= kFp8WideTokens) {
    for (; n + kFp8Wide * kLanes <= rows.end; n += kFp8Wide * kLanes) {
      for_tiles<kFp8WideTokens>(tokens.begin, tokens.end, [&](auto count, int64_t m) {
        multiply_tile<count(), kFp8Wide>(job, n, m);
      });
    }
  }
  for (; n < rows.end; n += kFp8Narrow * kLanes) multiply_rows(job, n, tokens.begin, tokens.end);
}

// n <= kFp8StageMost tokens from m on against the panel of `row`.
void multiply_panel(const Job& job, int64_t row, int64_t m, int64_t n) {
  HWY_ALIGN float sums[kFp8StageMost * kPanelRows];
  Fp8Stage stage;
  const int64_t K = job.w.K;
  const float* w_scale = job.w.scale + row / kFp8Block * job.w.scale_stride;
  std::fill_n(sums, n * kPanelRows, 0.0f);
  for (int64_t b = 0; b < K / kFp8Block; ++b) {
    const bool last = b + 1 == K / kFp8Block;
    stage.fill(job.w.codes + row * K + b * kFp8Block * kPanelRows);
    const float* x_scale = job.args.x_scale.as<float>() + b * job.args.x_scale.stride(0);
    for_tiles<kFp8StageTokens>(m, m + n, [&](auto tokens, int64_t first) {
      constexpr int kTokens = decltype(tokens)::value;
      float scale[kTokens];
      for (int t = 0; t < kTokens; ++t) scale[t] = w_scale[b] * x_scale[first + t] * kFp8WeightUnit;
      const int64_t token_units = K / kFp8UnitSize;
      const auto* x =
          static_cast<const Fp8Unit*>(job.x) + first * token_units + b * kFp8BlockUnits * kTokens;
      const Fp8Unit* next = x + kTokens * token_units;
      float* to = sums + (first - m) * kPanelRows;
      // Stored while the next tile is multiplied.
      if (last) prefetch_tile(job.args.y, first, row, kTokens, kPanelRows);
      multiply_fp8_stage<kTokens>(stage, x, next, scale, to);
      if (last) store_tile(job.args.y, {}, first, row, kTokens, kPanelRows, to);
    });
  }
}

void multiply_many(const Job& job, Range tokens, Range rows) {
  for (int64_t m = tokens.begin; m < tokens.end; m += kFp8StageMost) {
    const int64_t n = std::min<int64_t>(kFp8StageMost, tokens.end - m);
    for (int64_t row = rows.begin; row < rows.end; row += kPanelRows)
      multiply_panel(job, row, m, n);
  }
}

void convert_rows(const Tensor& x, int64_t from, int64_t end, Fp8Activation* to) {
  const int64_t K = x.dim(1);
  for (int64_t m = from; m < end; ++m) {
    fp8_activations(x.as<uint8_t>() + m * x.stride(0), K, to + m * K);
  }
}

}  // namespace

void fp8_block_gemm(Exec& exec, const Fp8BlockGemm& args) {
  const int64_t M = args.x.dim(0), K = args.x.dim(1);
  if (args.y.elements() == 0) return;
  Workspace::Mark mark(*exec.workspace);
  const WorkSplit split = split_work(M, exec.threads());
  const bool many = M >= kStagedTokens;
  const int64_t grain = many ? kFp8StageTokens : kFp8MostTokens;
  const int64_t copies = split == WorkSplit::rows_own_copy ? exec.threads() : 1;
  const DType dtype = sizeof(Fp8Activation) == 2 ? DType::bf16 : DType::f32;
  const Tensor converted = exec.workspace->alloc(dtype, {copies, M * K});
  const auto convert = [&](Range tokens, void* to) {
    if (many) {
      pack_fp8_tokens(args.x, tokens.begin, tokens.end, static_cast<Fp8Unit*>(to));
    } else {
      convert_rows(args.x, tokens.begin, tokens.end, static_cast<Fp8Activation*>(to));
    }
  };
  if (split == WorkSplit::rows)
    exec.parallel_for(M, grain, [&](Range tokens) { convert(tokens, converted.data); });
  const Fp8Panels panels{
      .codes = args.w.data.as<uint8_t>(),
      .scale = args.w.scale.as<float>(),
      .scale_stride = args.w.scale.stride(0),
      .K = K,
  };
  // Two panels at a time, so that few tokens find their four vectors within a block of 128 rows.
  ProductParts parts(split, {M, grain}, {args.w.data.dim(0), 2 * kPanelRows}, exec.threads());
  exec.on_threads([&](int thread, int) {
    const Range tokens = parts.tokens_of(thread);
    if (tokens.begin >= tokens.end) return;
    void* x = copies > 1 ? converted.row(thread).data : converted.data;
    if (split != WorkSplit::rows) convert(tokens, x);
    const Job job{args, panels, x};
    parts.each(thread, [&](Range rows) {
      many ? multiply_many(job, tokens, rows) : multiply_few(job, tokens, rows);
    });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
