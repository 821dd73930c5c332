// The turning of one head by its position (rope.h) on vectors.
#if defined(FATHOM_OPS_ROPE_ROTATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_ROPE_ROTATION_INL_H_
#undef FATHOM_OPS_ROPE_ROTATION_INL_H_
#else
#define FATHOM_OPS_ROPE_ROTATION_INL_H_
#endif

#include "fathom/ops/rope/rope_rows.h"
#include "fathom/ops/simd/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// x[i] becomes x[i] cosine[i] + x[partner of i] sine[i], the sign in sine; both of D elements.
struct Rotation {
  alignas(64) float cosine[kRopeMaxDim];
  alignas(64) float sine[kRopeMaxDim];

  void fill(const float* table, int64_t D, RopePairs pairs) {
    const int64_t half = D / 2;
    for (int64_t i = 0; i < half; ++i) {
      const int64_t first = pairs == RopePairs::halves ? i : 2 * i;
      const int64_t second = pairs == RopePairs::halves ? i + half : 2 * i + 1;
      cosine[first] = cosine[second] = table[i];
      sine[first] = -table[half + i];
      sine[second] = table[half + i];
    }
  }
  HWY_INLINE VF turn(VF x, VF partner, int64_t i) const {
    const F32 d;
    return hn::MulAdd(x, hn::Load(d, cosine + i), partner * hn::Load(d, sine + i));
  }
};

// D is a multiple of 32.
template <class T>
void rotate(T* head, int64_t D, RopePairs pairs, const Rotation& rotation) {
  if (pairs == RopePairs::adjacent) {
    for (int64_t i = 0; i < D; i += kLanes) {
      const VF x = load_lanes(head + i);
      store_lanes(rotation.turn(x, hn::Shuffle2301(x), i), head + i);
    }
    return;
  }
  const int64_t half = D / 2;
  for (int64_t i = 0; i < half; i += kLanes) {
    const VF a = load_lanes(head + i), b = load_lanes(head + half + i);
    store_lanes(rotation.turn(a, b, i), head + i);
    store_lanes(rotation.turn(b, a, half + i), head + half + i);
  }
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
