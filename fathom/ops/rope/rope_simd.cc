// rope on vectors, for head sizes that are multiples of 32.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/rope/rope_simd.cc"
// Nothing here gains from what VNNI levels add.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/rope/rope_rows.h"
#include "fathom/ops/simd/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

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

template <class T>
void rotate_heads(const Tensor& x, int64_t t, RopePairs pairs, const Rotation& rotation) {
  for (int64_t h = 0; h < x.dim(1); ++h)
    rotate(element<T>(x, t * x.stride(0) + h * x.stride(1)), x.dim(2), pairs, rotation);
}

}  // namespace

void rope(Exec& exec, const Rope& args) {
  const int32_t* positions = args.positions.as<int32_t>();
  for (int64_t t = 0; t < args.q.dim(0); ++t) {
    CHECK(
        positions[t] >= 0 && positions[t] < args.table.dim(0),
        "position {} of {}",
        positions[t],
        args.table.dim(0)
    );
  }
  with_element_type(args.q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    exec.parallel_for(args.q.dim(0), 4, [&](Range range) {
      Rotation rotation;
      for (int64_t t = range.begin; t < range.end; ++t) {
        const float* table = args.table.as<float>() + positions[t] * args.table.stride(0);
        rotation.fill(table, args.q.dim(2), args.pairs);
        rotate_heads<T>(args.q, t, args.pairs, rotation);
        rotate_heads<T>(args.k, t, args.pairs, rotation);
      }
    });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
