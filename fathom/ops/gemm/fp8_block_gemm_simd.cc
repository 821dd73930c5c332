// fp8_block_gemm on vectors, weights packed by 32 rows (fp8_panel-inl.h). One source, compiled for
// AVX2, AVX-512, AVX-512 with VBMI and bf16 dot products, and NEON.
//
// Tokens go in blocks that leave their activations in the second-level cache; within a block all
// rows of the weights pass, each group of rows staying in the first level for all its tiles.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/gemm/fp8_block_gemm_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/gemm/fp8_block_gemm_rows.h"
#include "fathom/ops/gemm/fp8_panel-inl.h"
#include "fathom/ops/gemm/work_split.h"
#include "fathom/ops/simd/store-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr int64_t kTokenBlockBytes = 256 << 10;  // of activations
constexpr int kNarrow = 2;                       // vectors multiplied together
constexpr int kWide = 4;  // where there are few tokens: more chains, to hide their latency

// Activations and tokens of one call.
struct Job {
  const Fp8BlockGemm& args;
  Fp8Panels w;
  const Fp8Activation* x;  // [M, K]
};

template <int kTokens, int kVectors>
void multiply_tile(const Job& job, int64_t n, int64_t m) {
  HWY_ALIGN float tile[kTokens * kVectors * kLanes];
  const Fp8BlockGemm& args = job.args;
  prefetch_tile(args.y, m, n, kTokens, kVectors * kLanes);
  const float* x_scale = args.x_scale.as<float>() + m;
  multiply_fp8<kTokens, kVectors>(
      job.w, n, job.x + m * job.w.K, x_scale, args.x_scale.stride(0), tile
  );
  store_tile(args.y, {}, m, n, kTokens, kVectors * kLanes, tile);
}

// Tokens [m, end) against kNarrow vectors of rows.
void multiply_rows(const Job& job, int64_t n, int64_t m, int64_t end) {
  for (; m + kFp8MostTokens <= end; m += kFp8MostTokens)
    multiply_tile<kFp8MostTokens, kNarrow>(job, n, m);
  if (m + 4 <= end) {
    multiply_tile<4, kNarrow>(job, n, m);
    m += 4;
  }
  if (m + 2 <= end) {
    multiply_tile<2, kNarrow>(job, n, m);
    m += 2;
  }
  if (m < end) multiply_tile<1, kNarrow>(job, n, m);
}

// Tokens against rows of the weights, these from panel to panel.
void multiply_part(const Job& job, Range tokens, Range rows) {
  const int64_t M = tokens.end;
  int64_t n = rows.begin;
  if (job.args.x.dim(0) <= 2) {
    for (; n + kWide * kLanes <= rows.end; n += kWide * kLanes) {
      if (M == 2) {
        multiply_tile<2, kWide>(job, n, 0);
      } else {
        multiply_tile<1, kWide>(job, n, 0);
      }
    }
  }
  const int64_t most = kTokenBlockBytes / (job.w.K * static_cast<int64_t>(sizeof(Fp8Activation)));
  const int64_t each = std::max<int64_t>(most / kFp8MostTokens, 4) * kFp8MostTokens;
  for (int64_t m = tokens.begin; m < M; m += each) {
    for (int64_t row = n; row < rows.end; row += kNarrow * kLanes)
      multiply_rows(job, row, m, std::min(M, m + each));
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
  const int64_t copies = split == WorkSplit::rows_own_copy ? exec.threads() : 1;
  const DType dtype = sizeof(Fp8Activation) == 2 ? DType::bf16 : DType::f32;
  const Tensor converted = exec.workspace->alloc(dtype, {copies, M * K});
  if (split == WorkSplit::rows) {
    exec.parallel_for(M, 1, [&](Range rows) {
      convert_rows(args.x, rows.begin, rows.end, static_cast<Fp8Activation*>(converted.data));
    });
  }
  const Fp8Panels panels{
      .codes = args.w.data.as<uint8_t>(),
      .scale = args.w.scale.as<float>(),
      .scale_stride = args.w.scale.stride(0),
      .K = K,
  };
  // Two panels at a time, so that few tokens find their four vectors within a block of 128 rows.
  ProductParts parts(
      split, {M, kFp8MostTokens}, {args.w.data.dim(0), 2 * kPanelRows}, exec.threads()
  );
  exec.on_threads([&](int thread, int) {
    const Range tokens = parts.tokens_of(thread);
    if (tokens.begin >= tokens.end) return;
    auto* x = static_cast<Fp8Activation*>(converted.data) + (copies > 1 ? thread * M * K : 0);
    if (split != WorkSplit::rows) convert_rows(args.x, tokens.begin, tokens.end, x);
    parts.each(thread, [&](Range rows) { multiply_part({args, panels, x}, tokens, rows); });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
