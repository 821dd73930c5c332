// w8a8_gemm with weights packed by 16 rows: tokens are rounded to int8, integer dots run over the
// whole of K, scales are applied to what the registers hold at its end. One source, compiled for
// AVX2, AVX-512, AVX-512 with VNNI, and NEON.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/gemm/w8a8_gemm_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/gemm/int8_tokens-inl.h"
#include "fathom/ops/gemm/token_tiles-inl.h"
#include "fathom/ops/gemm/w8a8_gemm_rows.h"
#include "fathom/ops/gemm/work_split.h"
#include "fathom/ops/simd/store-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr int64_t kTokenBlockBytes = 256 << 10;  // of rounded tokens that all rows pass together

// One product as a thread sees it.
struct Job {
  const W8a8Gemm& args;
  Int8Tokens x;
};

template <int kTokens, int kVectors>
void multiply_tile(const Job& job, int64_t first, int64_t m, bool streams) {
  HWY_ALIGN float tile[kTokens * kVectors * kLanes];
  const W8a8Gemm& args = job.args;
  prefetch_tile(args.y, m, first * kLanes, kTokens, kVectors * kLanes);
  multiply_int8_tile<kTokens, kVectors>(args.w, first, job.x, m, streams, tile);
  store_tile(args.y, args.bias, m, first * kLanes, kTokens, kVectors * kLanes, tile);
}

// Vectors [first, first + kVectors) of w's rows; they come from memory for the first tokens.
template <int kVectors>
void multiply_rows(const Job& job, int64_t first, Range tokens) {
  bool streams = true;
  for_tiles<kInt8Tile>(tokens.begin, tokens.end, [&](auto count, int64_t m) {
    multiply_tile<count(), kVectors>(job, first, m, streams);
    streams = false;
  });
}

// Tokens against vectors of rows; so many tokens at once that they stay in the second-level cache.
void multiply_part(const Job& job, Range tokens, Range vectors) {
  const int64_t each =
      std::max<int64_t>(kTokenBlockBytes / job.args.x.dim(1) / kInt8Tile, 4) * kInt8Tile;
  for (int64_t m = tokens.begin; m < tokens.end; m += each) {
    const Range some{m, std::min<int64_t>(tokens.end, m + each)};
    int64_t first = vectors.begin;
    for (; first + 2 <= vectors.end; first += 2) multiply_rows<2>(job, first, some);
    if (first < vectors.end) multiply_rows<1>(job, first, some);
  }
}

}  // namespace

void w8a8_gemm(Exec& exec, const W8a8Gemm& args) {
  const int64_t M = args.x.dim(0), K = args.x.dim(1);
  const WorkSplit split = split_work(M, exec.threads());
  const int64_t copies = split == WorkSplit::rows_own_copy ? exec.threads() : 1;
  Workspace::Mark mark(*exec.workspace);
  const Int8TokenMemory memory(exec, copies, M, K);
  if (split == WorkSplit::rows)
    exec.parallel_for(M, 1, [&](Range some) { round_tokens(args.x, some, memory.of(0)); });
  ProductParts parts(
      split, {M, kInt8Tile}, {args.w.data.dim(0) / kLanes, std::max(2, kParts)}, exec.threads()
  );
  exec.on_threads([&](int thread, int) {
    const Range tokens = parts.tokens_of(thread);
    if (tokens.begin >= tokens.end) return;
    const Job job{args, memory.of(copies > 1 ? thread : 0)};
    if (split != WorkSplit::rows) round_tokens(args.x, tokens, job.x);
    parts.each(thread, [&](Range vectors) { multiply_part(job, tokens, vectors); });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
