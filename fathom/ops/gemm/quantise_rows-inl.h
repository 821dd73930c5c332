// Rounding rows of activations to int8, 32 at a time, for products with block-quantised weights.
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

// 32 values at x: q = nearest even of x * 127 / amax, d = amax / 127. All of it zero when amax is.
// Leaves in x what rounding lost, x - d * q.
HWY_INLINE void quantise_chunk(VF* x, int offset, QuantisedChunk& to) {
  constexpr int kVectors = kChunk / kLanes;
  const F32 d;
  VF most = hn::Abs(x[0]);
#pragma GCC unroll 8
  for (int i = 1; i < kVectors; ++i) most = hn::Max(most, hn::Abs(x[i]));
  const float amax = hn::GetLane(hn::MaxOfLanes(d, most));
  const VF inverse = hn::Set(d, amax > 0 ? 127.0f / amax : 0.0f);
  const VF step = hn::Set(d, amax / 127.0f);
  VI sums[2] = {hn::Zero(I32()), hn::Zero(I32())};
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    const VI q = hn::NearestInt(x[i] * inverse);
    sums[2 * i / kVectors] = sums[2 * i / kVectors] + q;
    x[i] = hn::NegMulAdd(step, hn::ConvertTo(d, q), x[i]);
    hn::StoreU(
        hn::DemoteTo(hn::Rebind<int8_t, F32>(), q), hn::Rebind<int8_t, F32>(), to.q + i * kLanes
    );
  }
  const int32_t first = hn::GetLane(hn::SumOfLanes(I32(), sums[0]));
  const int32_t second = hn::GetLane(hn::SumOfLanes(I32(), sums[1]));
  to.d = amax / 127.0f;
  to.d_sum = to.d * static_cast<float>(first + second);
  to.start[0] = -offset * first;
  to.start[1] = -offset * second;
}

// Rows [from, end) of x, f32 or bf16 [M, K], K a multiple of 32. Row m becomes `digits` rows of
// chunks, [digits * m * K / 32, ...) of `to`: x rounded, and what that lost rounded again. `offset`
// is the weights' code offset.
inline void quantise_rows(
    const Tensor& x, int64_t from, int64_t end, int offset, int digits, QuantisedChunk* to
) {
  constexpr int kVectors = kChunk / kLanes;
  const int64_t K = x.dim(1);
  for (int64_t m = from; m < end; ++m) {
    QuantisedChunk* row = to + digits * m * (K / kChunk);
    for (int64_t k = 0; k < K; k += kChunk) {
      VF values[kVectors];
      const int64_t at = m * x.stride(0) + k;
      if (x.dtype == DType::f32) {
        const float* source = static_cast<const float*>(x.data) + at;
        for (int i = 0; i < kVectors; ++i) values[i] = hn::LoadU(F32(), source + i * kLanes);
      } else {
        const uint16_t* source = static_cast<const uint16_t*>(x.data) + at;
        for (int i = 0; i < kVectors; ++i) values[i] = load_bf16(source + i * kLanes);
      }
      for (int digit = 0; digit < digits; ++digit) {
        quantise_chunk(values, offset, row[(digit * K + k) / kChunk]);
      }
    }
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
