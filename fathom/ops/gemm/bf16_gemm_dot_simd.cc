// bf16_gemm with x rounded to bf16 and products by the bf16 dot instruction, twice as many a cycle
// as float FMA where it runs at full rate (Zen 4 and later). Weights bf16x32; an output's sum is
// one chain that takes k in the order 1, 0, 3, 2, ...
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/gemm/bf16_gemm_dot_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET == HWY_AVX3_DL
#include <algorithm>

#include "fathom/ops/gemm/bf16_gemm_rows.h"
#include "fathom/ops/gemm/packed_layout.h"
#include "fathom/ops/gemm/token_tiles-inl.h"
#include "fathom/ops/gemm/work_split.h"
#include "fathom/ops/simd/elements-inl.h"
#include "fathom/ops/simd/store-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr int64_t kTokenBlockBytes = 256 << 10;  // of rounded activations
constexpr int kMostTokens = 12;
constexpr int kVectors = kPanelRows / kLanes;

// x as pairs of bf16, [M, K / 2].
struct Job {
  const Bf16Gemm& args;
  const uint32_t* x;
};

// One panel against kTokens tokens; tile is [kTokens, 32].
template <int kTokens>
HWY_NOINLINE void multiply_panel(
    const uint8_t* panel, const uint32_t* x, int64_t pairs, bool streams, float* tile
) {
  const U32 d;
  VF sums[kTokens][kVectors];
#pragma GCC unroll 12
  for (int t = 0; t < kTokens; ++t) sums[t][0] = sums[t][1] = hn::Zero(F32());
  for (int64_t i = 0; i < pairs; ++i) {
    const uint8_t* at = panel + i * 128;
    if (streams) {
      prefetch_near(at + 1024);
      prefetch_near(at + 1088);
      prefetch_far(at + 12288);
      prefetch_far(at + 12352);
    }
    const auto first = hn::Load(d, reinterpret_cast<const uint32_t*>(at));
    const auto second = hn::Load(d, reinterpret_cast<const uint32_t*>(at) + kLanes);
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) {
      const auto pair = hn::Set(d, x[t * pairs + i]);
      asm("vdpbf16ps %2, %1, %0" : "+v"(sums[t][0].raw) : "v"(first.raw), "v"(pair.raw));
      asm("vdpbf16ps %2, %1, %0" : "+v"(sums[t][1].raw) : "v"(second.raw), "v"(pair.raw));
    }
  }
#pragma GCC unroll 12
  for (int t = 0; t < kTokens; ++t) {
    hn::Store(sums[t][0], F32(), tile + t * kPanelRows);
    hn::Store(sums[t][1], F32(), tile + t * kPanelRows + kLanes);
  }
}

template <int kTokens>
void multiply_tile(const Job& job, int64_t row, int64_t m, bool streams) {
  HWY_ALIGN float tile[kTokens * kPanelRows];
  const int64_t K = job.args.x.dim(1);
  const auto* panel = static_cast<const uint8_t*>(job.args.weight.data) + row * K * 2;
  prefetch_tile(job.args.y, m, row, kTokens, kPanelRows);
  multiply_panel<kTokens>(panel, job.x + m * (K / 2), K / 2, streams, tile);
  store_tile(job.args.y, job.args.bias, m, row, kTokens, kPanelRows, tile);
}

// Tokens [m, end) against one panel, in the largest tiles that fit.
void multiply_rows(const Job& job, int64_t row, int64_t m, int64_t end) {
  for_tiles<kMostTokens>(m, end, [&](auto tokens, int64_t first) {
    multiply_tile<tokens()>(job, row, first, first == m);
  });
}

void multiply_part(const Job& job, Range tokens, Range rows) {
  const int64_t most = kTokenBlockBytes / (2 * job.args.x.dim(1));
  const int64_t each = std::max<int64_t>(most / kMostTokens, 4) * kMostTokens;
  for (int64_t m = tokens.begin; m < tokens.end; m += each) {
    for (int64_t row = rows.begin; row < rows.end; row += kPanelRows)
      multiply_rows(job, row, m, std::min<int64_t>(tokens.end, m + each));
  }
}

// Rows [from, end) of x as bf16, [M, K].
void round_rows(const Tensor& x, int64_t from, int64_t end, uint16_t* to) {
  const int64_t K = x.dim(1);
  with_element_type(x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (int64_t m = from; m < end; ++m) {
      const T* row = element<T>(x, m * x.stride(0));
      for (int64_t k = 0; k < K; k += kLanes)
        store_some(load_some(row + k, K - k), to + m * K + k, K - k);
    }
  });
}

}  // namespace

void bf16_gemm_rounded(Exec& exec, const Bf16Gemm& args) {
  const int64_t M = args.x.dim(0), K = args.x.dim(1);
  const WorkSplit split = split_work(M, exec.threads());
  const int64_t copies = split == WorkSplit::rows_own_copy ? exec.threads() : 1;
  Workspace::Mark mark(*exec.workspace);
  const Tensor rounded = exec.workspace->alloc(DType::bf16, {copies, M * K});
  if (split == WorkSplit::rows) {
    exec.parallel_for(M, 1, [&](Range rows) {
      round_rows(args.x, rows.begin, rows.end, rounded.as<uint16_t>());
    });
  }
  ProductParts parts(split, {M, kMostTokens}, {args.weight.dim(0), kPanelRows}, exec.threads());
  exec.on_threads([&](int thread, int) {
    const Range tokens = parts.tokens_of(thread);
    if (tokens.begin >= tokens.end) return;
    uint16_t* x = rounded.as<uint16_t>() + (copies > 1 ? thread * M * K : 0);
    if (split != WorkSplit::rows) round_rows(args.x, tokens.begin, tokens.end, x);
    const Job job{args, reinterpret_cast<const uint32_t*>(x)};
    parts.each(thread, [&](Range rows) { multiply_part(job, tokens, rows); });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
