// mla_kv_append on vectors: latent and rope key go into float rows of the cache in one pass, with
// no row of both in between.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/attention/mla_kv_append_simd.cc"
// Nothing here gains from what VNNI levels add.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include "fathom/ops/attention/latent_rows-inl.h"
#include "fathom/ops/attention/mla_kv_append_rows.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

void mla_kv_append(Exec& exec, const MlaKvAppend& args) {
  const int64_t L = args.latent.dim(1), R = args.k_rope.dim(1);
  if (args.rows.kv_len.dim(0) == 0) return;
  const LatentRows rows(args.rows, args.kv);
  with_element_type(args.latent.dtype, [&](auto* type) {
    with_element_type(args.kv.dtype, [&](auto* cached) {
      using T = std::remove_pointer_t<decltype(type)>;
      using C = std::remove_pointer_t<decltype(cached)>;
      exec.parallel_for(rows.tokens(), 16, [&](Range tokens) {
        for (int64_t i = tokens.begin; i < tokens.end; ++i) {
          const int64_t t = rows.first_token() + i;
          C* to = element<C>(args.kv, rows.offset(t));
          copy_values(element<T>(args.latent, t * args.latent.stride(0)), L, to);
          copy_values(element<T>(args.k_rope, t * args.k_rope.stride(0)), R, to + L);
        }
      });
    });
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
