// Rounding rows of activations to int8 digits, 32 at a time, for products with block-quantised
// weights.
#if defined(FATHOM_OPS_GEMM_QUANTISE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_GEMM_QUANTISE_ROWS_INL_H_
#undef FATHOM_OPS_GEMM_QUANTISE_ROWS_INL_H_
#else
#define FATHOM_OPS_GEMM_QUANTISE_ROWS_INL_H_
#endif

#include "fathom/core/tensor.h"
#include "fathom/ops/gemm/quantised_chunk.h"
#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// The largest magnitude that d multiplies; its first digit is at most 127.
template <int kDigits>
inline constexpr float kMostQuantised = kDigits == 1 ? 127.0f : 127.0f * 256.0f;

// 32 values at x: nearest even of x * most / amax, d = amax / most. All of it zero when amax is.
// `halves`: the starts of both halves are wanted, else of all alone.
template <int kDigits>
HWY_INLINE void quantise_chunk(const VF* x, int offset, bool halves, QuantisedChunk<kDigits>& to) {
  constexpr int kVectors = kChunk / kLanes;
  constexpr float kMost = kMostQuantised<kDigits>;
  const F32 d;
  const I32 di;
  const hn::Rebind<int8_t, F32> d8;
  VF most = hn::Abs(x[0]);
#pragma GCC unroll 8
  for (int i = 1; i < kVectors; ++i) most = hn::Max(most, hn::Abs(x[i]));
  const float amax = hn::GetLane(hn::MaxOfLanes(d, most));
  const VF inverse = hn::Set(d, amax > 0 ? kMost / amax : 0.0f);
  VI digits[kDigits][kVectors];
  VI sum = hn::Zero(di);
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    const VI q = hn::NearestInt(x[i] * inverse);
    sum = sum + q;
    digits[0][i] = q;
    if constexpr (kDigits == 2) {
      digits[0][i] = hn::ShiftRight<8>(q + hn::Set(di, 128));
      digits[1][i] = q - hn::ShiftLeft<8>(digits[0][i]);
    }
#pragma GCC unroll 2
    for (int digit = 0; digit < kDigits; ++digit)
      hn::StoreU(hn::DemoteTo(d8, digits[digit][i]), d8, to.q[digit] + i * kLanes);
  }
  const int32_t all = hn::GetLane(hn::SumOfLanes(di, sum));
  to.d = amax / kMost;
  to.d_sum = to.d * static_cast<float>(all);
  to.start_all = -offset * all;
  if (!halves) return;
  for (int digit = 0; digit < kDigits; ++digit) {
    for (int half = 0; half < 2; ++half) {
      VI part = hn::Zero(di);
#pragma GCC unroll 4
      for (int i = 0; i < kVectors / 2; ++i) part = part + digits[digit][half * kVectors / 2 + i];
      to.start[digit][half] = -offset * hn::GetLane(hn::SumOfLanes(di, part));
    }
  }
}

// How a format wants activations rounded.
struct QuantiseLayout {
  int offset;   // of the weights' codes
  bool halves;  // scales of 16 k
  int tile;     // tokens interleaved
};

// Rows [from, end) of x, f32 or bf16 [M, K], K a multiple of 32.
template <int kDigits>
void quantise_rows(
    const Tensor& x,
    int64_t from,
    int64_t end,
    const QuantiseLayout& layout,
    QuantisedChunk<kDigits>* to
) {
  constexpr int kVectors = kChunk / kLanes;
  const int64_t K = x.dim(1);
  for (int64_t m = from; m < end; ++m) {
    QuantisedChunk<kDigits>* chunk = to + chunk_index(m, 0, K, layout.tile);
    for (int64_t k = 0; k < K; k += kChunk, chunk += layout.tile) {
      VF values[kVectors];
      const int64_t at = m * x.stride(0) + k;
      if (x.dtype == DType::f32) {
        const float* source = static_cast<const float*>(x.data) + at;
        for (int i = 0; i < kVectors; ++i) values[i] = hn::LoadU(F32(), source + i * kLanes);
      } else {
        const uint16_t* source = static_cast<const uint16_t*>(x.data) + at;
        for (int i = 0; i < kVectors; ++i) values[i] = load_bf16(source + i * kLanes);
      }
      quantise_chunk<kDigits>(values, layout.offset, layout.halves, *chunk);
    }
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
