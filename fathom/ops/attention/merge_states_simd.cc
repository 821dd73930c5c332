// merge_states on vectors: both parts of a head pass once.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/attention/merge_states_simd.cc"
// Nothing here gains from what VNNI levels add.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include <algorithm>
#include <cmath>
#include <limits>

#include "fathom/ops/attention/merge_states_rows.h"
#include "fathom/ops/simd/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

float seen(float lse) {
  return lse == -kNothing ? kNothing : lse;
}

// One head: D values of y and other, and the two sums.
template <class T>
void merge(T* y, const T* other, int64_t D, float& lse, float other_lse) {
  const float a = seen(lse), b = seen(other_lse), m = std::max(a, b);
  const float w = m == kNothing ? 0.0f : std::exp(a - m);
  const float v = m == kNothing ? 0.0f : std::exp(b - m);
  const float total = w + v;
  const VF keep = hn::Set(F32(), total > 0 ? w / total : 0.0f);
  const VF add = hn::Set(F32(), total > 0 ? v / total : 0.0f);
  for (int64_t i = 0; i < D; i += kLanes) {
    const VF sum = keep * load_some(y + i, D - i) + add * load_some(other + i, D - i);
    store_some(sum, y + i, D - i);
  }
  lse = m == kNothing ? kNothing : m + std::log(total);
}

}  // namespace

void merge_states(Exec& exec, const MergeStates& args) {
  const int64_t H = args.y.dim(1), D = args.y.dim(2);
  with_element_type(args.y.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    exec.parallel_for(args.y.dim(0), 8, [&](Range tokens) {
      for (int64_t t = tokens.begin; t < tokens.end; ++t) {
        float* lse = args.lse.row(t).as<float>();
        const float* other_lse = args.other_lse.row(t).as<float>();
        for (int64_t h = 0; h < H; ++h) {
          merge(
              element<T>(args.y, t * args.y.stride(0) + h * args.y.stride(1)),
              element<T>(args.other, t * args.other.stride(0) + h * args.other.stride(1)),
              D,
              lse[h],
              other_lse[h]
          );
        }
      }
    });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
