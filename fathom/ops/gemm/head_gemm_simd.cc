// head_gemm of FP8 codes packed by 32 rows (fp8_panel-inl.h), activations as they are: where the
// panels are multiplied with bf16, x is split into two of them, which count as two tokens; or
// rounded to one. One parallel run for all heads.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/gemm/head_gemm_simd.cc"
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include <array>
#include <type_traits>

#include "fathom/base/threads.h"
#include "fathom/ops/gemm/fp8_panel-inl.h"
#include "fathom/ops/gemm/head_gemm_rows.h"
#include "fathom/ops/gemm/token_tiles-inl.h"
#include "fathom/ops/simd/elements-inl.h"
#include "fathom/ops/simd/store-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr int kTerms = sizeof(Fp8Activation) == 2 ? 2 : 1;        // that x is split into
constexpr int64_t kBlock = 32;                                    // tokens prepared at once
constexpr int64_t kGrain = 2 * kPanelRows;                        // rows, within a head
constexpr std::array<float, 8> kOnes = {1, 1, 1, 1, 1, 1, 1, 1};  // scales of x

// Tokens [from, from + n) of head h as the panels want them: [n * kTerms, K].
template <int kTerms, class T>
void prepare(const Tensor& x, int64_t h, int64_t from, int64_t n, Fp8Activation* to) {
  const int64_t K = x.dim(2);
  for (int64_t t = from; t < from + n; ++t, to += kTerms * K) {
    const T* row = element<T>(x, t * x.stride(0) + h * x.stride(1));
    for (int64_t k = 0; k < K; k += kLanes) {
      const VF value = load_lanes(row + k) * hn::Set(F32(), kFp8ActivationUnit);
      store_lanes(value, to + k);
      if constexpr (kTerms == 2) store_lanes(value - load_lanes(to + k), to + K + k);
    }
  }
}

struct Job {
  const HeadGemm& args;
  Fp8Panels w;
  Tensor y;                // of the head, [T, N]
  int64_t row;             // of the weight, where the head's begin
  const Fp8Activation* x;  // of the block's tokens
  int64_t from;            // the block's first token
};

// Tokens m .. of the block against rows [n, n + kVectors * L) of the head.
template <int kTerms, int kTokens, int kVectors>
void multiply_tile(const Job& job, int64_t n, int64_t m) {
  constexpr int kWidth = kVectors * kLanes;
  HWY_ALIGN float tile[kTokens * kTerms * kWidth];
  const int64_t row = job.row + n;
  const uint8_t* next = job.w.row_at(row + kWidth);
  multiply_fp8<kTokens * kTerms, kVectors>(
      job.w, row, job.x + m * kTerms * job.w.K, kOnes.data(), 0, next, tile
  );
  if constexpr (kTerms == 2) {
    for (int t = 0; t < kTokens; ++t) {
      const float* terms = tile + 2 * t * kWidth;
      for (int i = 0; i < kWidth; i += kLanes) {
        const VF sum = hn::Load(F32(), terms + i) + hn::Load(F32(), terms + kWidth + i);
        hn::Store(sum, F32(), tile + t * kWidth + i);
      }
    }
  }
  store_tile(job.y, {}, job.from + m, n, kTokens, kWidth, tile);
}

// All tokens of a block against kVectors of rows at a time, in tiles of at most kMost tokens.
template <int kTerms, int kMost, int kVectors>
void multiply_rows(const Job& job, Range rows, int64_t tokens) {
  for (int64_t n = rows.begin; n < rows.end; n += kVectors * kLanes) {
    for_tiles<kMost>(0, tokens, [&](auto count, int64_t m) {
      multiply_tile<kTerms, count(), kVectors>(job, n, m);
    });
  }
}

// Rows of one head against all tokens.
template <int kTerms>
void multiply_head(const HeadGemm& args, int64_t h, Range rows, Fp8Activation* x) {
  const int64_t T = args.x.dim(0), N = args.y.dim(2);
  Tensor y = args.y.slice(1, h, 1);
  y.rank = 2;
  y.dims = {T, N};
  y.strides = {args.y.stride(0), 1};
  const Fp8Panels panels{
      .codes = args.weight.as<uint8_t>(),
      .scale = args.weight_scale.as<float>(),
      .scale_stride = args.weight_scale.stride(0),
      .K = args.x.dim(2),
  };
  for (int64_t from = 0; from < T; from += kBlock) {
    const int64_t n = std::min(kBlock, T - from);
    with_element_type(args.x.dtype, [&](auto* type) {
      prepare<kTerms, std::remove_pointer_t<decltype(type)> >(args.x, h, from, n, x);
    });
    const Job job{args, panels, y, h * N, x, from};
    constexpr int kWideTokens = kFp8WideTokens / kTerms;
    if (n <= kWideTokens) {
      multiply_rows<kTerms, kWideTokens, kFp8Wide>(job, rows, n);
    } else {
      multiply_rows<kTerms, kFp8MostTokens / kTerms, kFp8Narrow>(job, rows, n);
    }
  }
}

template <int kTerms>
void multiply_heads(Exec& exec, const HeadGemm& args) {
  const int64_t N = args.y.dim(2), K = args.x.dim(2);
  Workspace::Mark mark(*exec.workspace);
  const DType dtype = sizeof(Fp8Activation) == 2 ? DType::bf16 : DType::f32;
  const int64_t tokens = std::min(kBlock, args.x.dim(0));
  const Tensor prepared = exec.workspace->alloc(dtype, {exec.threads(), tokens * kTerms * K});
  SharedRanges shared(args.weight.dim(0), kGrain, exec.threads());
  exec.on_threads([&](int thread, int) {
    auto* x = static_cast<Fp8Activation*>(prepared.row(thread).data);
    for (Range rows; shared.take(thread, rows);) {
      for (int64_t begin = rows.begin; begin < rows.end;) {
        const int64_t h = begin / N;
        const int64_t end = std::min<int64_t>(rows.end, (h + 1) * N);
        multiply_head<kTerms>(args, h, {begin - h * N, end - h * N}, x);
        begin = end;
      }
    }
  });
}

}  // namespace

void head_gemm_fp8(Exec& exec, const HeadGemm& args) {
  multiply_heads<sizeof(Fp8Activation) == 2 ? 2 : 1>(exec, args);
}

#if HWY_TARGET == HWY_AVX3_DL
void head_gemm_fp8_rounded(Exec& exec, const HeadGemm& args) {
  multiply_heads<1>(exec, args);
}
#endif

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
