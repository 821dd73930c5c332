// Writing latents and rope keys into float rows of the latent cache, token by token.
#if defined(FATHOM_OPS_ATTENTION_LATENT_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_OPS_ATTENTION_LATENT_ROWS_INL_H_
#undef FATHOM_OPS_ATTENTION_LATENT_ROWS_INL_H_
#else
#define FATHOM_OPS_ATTENTION_LATENT_ROWS_INL_H_
#endif

#include <algorithm>

#include "fathom/ops/attention/paged_rows.h"
#include "fathom/ops/simd/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {

// Where the rows of a step's tokens stand; checks that their pages reach so far.
class LatentRows {
 public:
  LatentRows(const PagedRows& rows, const Tensor& kv) : rows_(rows), kv_(kv) {
    for (int64_t b = 0; b < count(); ++b) {
      const int64_t end = at(rows.kv_len, b), tokens = begin(b + 1) - begin(b);
      const int64_t pages = at(rows.page_begin, b + 1) - at(rows.page_begin, b);
      CHECK(
          tokens <= end && end <= pages * kv.dim(1),
          "row {}: positions {} to {} are outside its {} pages",
          b,
          end - tokens,
          end,
          pages
      );
    }
  }
  int64_t first_token() const { return begin(0); }
  int64_t tokens() const { return begin(count()) - begin(0); }
  // The offset of token t's row in the cache.
  int64_t offset(int64_t t) const {
    const auto* row_begin = rows_.row_begin.as<int32_t>();
    const int64_t b =
        std::upper_bound(row_begin, row_begin + count() + 1, static_cast<int32_t>(t)) - row_begin -
        1;
    const int64_t position = at(rows_.kv_len, b) - begin(b + 1) + t;
    const int64_t entry = at(rows_.page_begin, b) + position / kv_.dim(1);
    return at(rows_.pages, entry) * kv_.stride(0) + position % kv_.dim(1) * kv_.stride(1);
  }

 private:
  static int64_t at(const Tensor& t, int64_t i) { return t.as<int32_t>()[i]; }
  int64_t count() const { return rows_.kv_len.dim(0); }
  int64_t begin(int64_t b) const { return at(rows_.row_begin, b); }

  const PagedRows& rows_;
  const Tensor& kv_;
};

// n values, a multiple of the lanes.
template <class T, class C>
HWY_INLINE void copy_values(const T* from, int64_t n, C* to) {
  for (int64_t i = 0; i < n; i += kLanes) store_lanes(load_lanes(from + i), to + i);
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
