// Sums of an outer product in registers: what a few vectors and a few factors give in all pairs.
#if defined(FATHOM_OPS_SIMD_OUTER_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_SIMD_OUTER_PRODUCT_INL_H_
#undef FATHOM_OPS_SIMD_OUTER_PRODUCT_INL_H_
#else
#define FATHOM_OPS_SIMD_OUTER_PRODUCT_INL_H_
#endif

#include "fathom/ops/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// sum(i, j) += kept(i) * passing(j): the kept ones stay in registers beside the sums.
template <int kKept, int kPassing, class Kept, class Passing, class Sum>
HWY_INLINE void add_products_of_kept(const Kept& kept, const Passing& passing, const Sum& sum) {
  VF left[kKept];
#pragma GCC unroll 6
  for (int i = 0; i < kKept; ++i) left[i] = in_register(kept(i));
#pragma GCC unroll 6
  for (int j = 0; j < kPassing; ++j) {
    const VF right = in_register(passing(j));
#pragma GCC unroll 6
    for (int i = 0; i < kKept; ++i) sum(i, j) = hn::MulAdd(left[i], right, sum(i, j));
  }
}

// sums[r][v] += row(r) * vector(v), each loaded once; kept are those of which there are fewer.
template <int kRows, int kVectors, class Row, class Vector>
HWY_INLINE void add_outer_product(
    VF (&sums)[kRows][kVectors], const Row& row, const Vector& vector
) {
  if constexpr (kRows < kVectors) {
    add_products_of_kept<kRows, kVectors>(row, vector, [&](int r, int v) -> VF& {
      return sums[r][v];
    });
  } else {
    add_products_of_kept<kVectors, kRows>(vector, row, [&](int v, int r) -> VF& {
      return sums[r][v];
    });
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
