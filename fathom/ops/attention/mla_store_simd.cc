// mla_store on vectors, token by token: the latent is normed, the rope parts turned, and both are
// written into the cache while they are in the first-level cache; one parallel run. The same bits
// as the three ops.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/attention/mla_store_simd.cc"
// Nothing here gains from what VNNI levels add.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include <cmath>

#include "fathom/ops/attention/latent_rows-inl.h"
#include "fathom/ops/attention/mla_store_rows.h"
#include "fathom/ops/rope/rotation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

// rms_norm of L values, a multiple of 32.
template <class T>
void norm_latent(const T* x, const float* weight, float eps, int64_t L, T* y) {
  WideSum squares;
  for (int64_t c = 0; c < L; c += WideSum::kWide) {
#pragma GCC unroll 8
    for (int v = 0; v < WideSum::kVectors; ++v) {
      const VF value = load_lanes(x + c + v * kLanes);
      squares.add_product(v, value, value);
    }
  }
  const VF scale = hn::Set(F32(), 1.0f / std::sqrt(squares.total() / static_cast<float>(L) + eps));
  for (int64_t c = 0; c < L; c += kLanes)
    store_lanes(load_lanes(x + c) * scale * load_lanes(weight + c), y + c);
}

template <class T, class C>
void store_token(const MlaStore& args, int64_t t, C* to) {
  const int64_t L = args.c.dim(1), R = args.k_rope.dim(1);
  T* latent = element<T>(args.latent, t * args.latent.stride(0));
  T* key = element<T>(args.k_rope, t * args.k_rope.stride(0));
  const int64_t position = args.positions.as<int32_t>()[t];
  Rotation rotation;
  rotation.fill(args.table.as<float>() + position * args.table.stride(0), R, RopePairs::adjacent);
  norm_latent(
      element<T>(args.c, t * args.c.stride(0)), args.weight.as<float>(), args.eps, L, latent
  );
  rotate(key, R, RopePairs::adjacent, rotation);
  for (int64_t h = 0; h < args.q_rope.dim(1); ++h)
    rotate(
        element<T>(args.q_rope, t * args.q_rope.stride(0) + h * args.q_rope.stride(1)),
        R,
        RopePairs::adjacent,
        rotation
    );
  copy_values(latent, L, to);
  copy_values(key, R, to + L);
}

}  // namespace

void mla_store(Exec& exec, const MlaStore& args) {
  if (args.rows.kv_len.dim(0) == 0) return;
  const LatentRows rows(args.rows, args.kv);
  for (int64_t t = 0; t < args.c.dim(0); ++t) {
    const int64_t position = args.positions.as<int32_t>()[t];
    CHECK(
        position >= 0 && position < args.table.dim(0),
        "position {} of {}",
        position,
        args.table.dim(0)
    );
  }
  with_element_type(args.c.dtype, [&](auto* type) {
    with_element_type(args.kv.dtype, [&](auto* cached) {
      using T = std::remove_pointer_t<decltype(type)>;
      using C = std::remove_pointer_t<decltype(cached)>;
      exec.parallel_for(rows.tokens(), 8, [&](Range tokens) {
        for (int64_t i = tokens.begin; i < tokens.end; ++i) {
          const int64_t t = rows.first_token() + i;
          store_token<T>(args, t, element<C>(args.kv, rows.offset(t)));
        }
      });
    });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
