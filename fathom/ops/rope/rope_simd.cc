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
#include "fathom/ops/rope/rotation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

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
