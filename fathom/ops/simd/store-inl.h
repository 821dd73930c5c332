// Writing lanes of one output row, with bias and rounding, for the matrix products.
#if defined(FATHOM_OPS_SIMD_STORE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_SIMD_STORE_INL_H_
#undef FATHOM_OPS_SIMD_STORE_INL_H_
#else
#define FATHOM_OPS_SIMD_STORE_INL_H_
#endif

#include "fathom/ops/element.h"
#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// Asks for the lines that store_tile will write, so that they are there when the tile is done: rows
// of y lie far apart and stores retire in order.
HWY_INLINE void prefetch_tile(const Tensor& y, int64_t m, int64_t n, int tokens, int width) {
  const int64_t bytes = y.dtype == DType::f32 ? 4 : 2;
  for (int t = 0; t < tokens; ++t) {
    const char* row = static_cast<const char*>(y.data) + ((m + t) * y.stride(0) + n) * bytes;
    for (int64_t line = 0; line < width * bytes; line += 64) __builtin_prefetch(row + line, 1, 3);
  }
}

// y[m + t, n + i] = tile[t * width + i] + bias[n + i] for t < tokens, i < width, cut at y's N
// columns. y is f32 or bf16; width is a multiple of L; tile is aligned to vectors.
HWY_NOINLINE inline void store_tile(
    const Tensor& y,
    const Tensor& bias,
    int64_t m,
    int64_t n,
    int tokens,
    int width,
    const float* tile
) {
  const int64_t N = y.dim(1);
  for (int t = 0; t < tokens; ++t) {
    for (int i = 0; i < width; i += kLanes) {
      const int64_t at = (m + t) * y.stride(0) + n + i;
      const float* lanes = tile + t * width + i;
      if (n + i + kLanes <= N && !bias.defined()) {
        const VF value = hn::Load(F32(), lanes);
        if (y.dtype == DType::f32) {
          hn::StoreU(value, F32(), static_cast<float*>(y.data) + at);
        } else {
          store_bf16(value, static_cast<uint16_t*>(y.data) + at);
        }
        continue;
      }
      for (int l = 0; l < kLanes && n + i + l < N; ++l) {
        const float added = bias.defined() ? load_element(bias, n + i + l) : 0.0f;
        store_element(y, at + l, lanes[l] + added);
      }
    }
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
