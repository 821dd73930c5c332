// fused_quant on vectors: a group of 128 values passes through the first-level cache once.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/quant/fused_quant_simd.cc"
// Nothing here gains from what VNNI levels add.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/quant/fused_quant_rows.h"
#include "fathom/ops/simd/elements-inl.h"
#include "fathom/ops/simd/exp-inl.h"
#include "fathom/ops/simd/fp8-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

constexpr int64_t kValuesOfThread = 16384;  // fewer are done before another thread wakes

// Values [from, from + 128) of a token, behind the prologue.
template <class T>
HWY_INLINE void load_group(const T* x, int64_t K, int64_t from, bool swiglu, float* group) {
  const F32 d;
  for (int64_t i = 0; i < kFp8Block; i += kLanes) {
    VF v = load_lanes(x + from + i);
    if (swiglu) v = silu(v) * load_lanes(x + K + from + i);
    hn::Store(v, d, group + i);
  }
}

template <class T>
void quantise_token(const FusedQuant& args, int64_t t) {
  const int64_t K = args.y.dim(1);
  const T* x = element<T>(args.x, t * args.x.stride(0));
  auto* codes = static_cast<uint8_t*>(args.y.data) + t * args.y.stride(0);
  float* scale = args.scale.as<float>() + t;
  alignas(64) float group[kFp8Block];
  for (int64_t from = 0; from < K; from += kFp8Block) {
    load_group(x, K, from, args.prologue == FusedQuant::Prologue::swiglu, group);
    scale[from / kFp8Block * args.scale.stride(0)] =
        quantise_group(group, args.eps, args.ue8m0, codes + from);
  }
}

}  // namespace

void fused_quant(Exec& exec, const FusedQuant& args) {
  const int64_t grain = std::max<int64_t>(1, kValuesOfThread / args.y.dim(1));
  with_element_type(args.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    exec.parallel_for(args.y.dim(0), grain, [&](Range tokens) {
      for (int64_t t = tokens.begin; t < tokens.end; ++t) quantise_token<T>(args, t);
    });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
