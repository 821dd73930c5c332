// kv_append on vectors: rows of a head copied or rounded once.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fathom/ops/attention/kv_append_simd.cc"
// Nothing here gains from what VNNI levels add.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#include <hwy/foreach_target.h>
// After foreach_target, which includes this file once per level and once for the scalar baseline.
#if HWY_TARGET != HWY_SCALAR
#include <algorithm>
#include <cstring>

#include "fathom/ops/attention/kv_append_rows.h"
#include "fathom/ops/simd/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::ops::HWY_NAMESPACE {
namespace {

using Half = hwy::float16_t;

HWY_INLINE void store_cached(VF value, float* to) {
  hn::StoreU(value, F32(), to);
}
HWY_INLINE void store_cached(VF value, uint16_t* to) {
  store_bf16(value, to);
}
HWY_INLINE void store_cached(VF value, Half* to) {
  hn::StoreU(hn::DemoteTo(F16(), value), F16(), to);
}

template <class T, class C>
void store_head(const T* from, int64_t n, C* to) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const VF value = load_some(from + i, n - i);
    if (i + kLanes <= n) {
      store_cached(value, to + i);
    } else {
      C lanes[kLanes];
      store_cached(value, lanes);
      std::memcpy(to + i, lanes, static_cast<size_t>(n - i) * sizeof(C));
    }
  }
}

// Token t of x [T, Hkv, D] into slot `slot` of page `page`.
template <class T, class C>
void store_token(const Tensor& x, int64_t t, const Tensor& cache, int64_t page, int64_t slot) {
  for (int64_t h = 0; h < x.dim(1); ++h) {
    C* to = static_cast<C*>(cache.data) + page * cache.stride(0) + h * cache.stride(1) +
            slot * cache.stride(2);
    store_head(element<T>(x, t * x.stride(0) + h * x.stride(1)), x.dim(2), to);
  }
}

void check_rows(const PagedRows& rows, int64_t page_size) {
  const int32_t* row_begin = rows.row_begin.as<int32_t>();
  const int32_t* page_begin = rows.page_begin.as<int32_t>();
  for (int64_t b = 0; b < rows.kv_len.dim(0); ++b) {
    const int64_t end = rows.kv_len.as<int32_t>()[b], tokens = row_begin[b + 1] - row_begin[b];
    const int64_t pages = page_begin[b + 1] - page_begin[b];
    CHECK(
        tokens <= end && end <= pages * page_size,
        "row {}: positions {} to {} are outside its {} pages",
        b,
        end - tokens,
        end,
        pages
    );
  }
}

template <class T, class C>
void append(Exec& exec, const KvAppend& args) {
  const int64_t page_size = args.keys.dim(2), B = args.rows.kv_len.dim(0);
  const int32_t* row_begin = args.rows.row_begin.as<int32_t>();
  const int32_t* page_begin = args.rows.page_begin.as<int32_t>();
  const int32_t* pages = args.rows.pages.as<int32_t>();
  const int32_t* kv_len = args.rows.kv_len.as<int32_t>();
  check_rows(args.rows, page_size);
  exec.parallel_for(row_begin[B] - row_begin[0], 8, [&](Range tokens) {
    for (int64_t i = tokens.begin; i < tokens.end; ++i) {
      const int64_t t = row_begin[0] + i;
      const int64_t b = std::upper_bound(row_begin, row_begin + B + 1, t) - row_begin - 1;
      const int64_t position = kv_len[b] - row_begin[b + 1] + t;
      const int64_t entry = page_begin[b] + position / page_size;
      store_token<T, C>(args.k, t, args.keys, pages[entry], position % page_size);
      store_token<T, C>(args.v, t, args.values, pages[entry], position % page_size);
    }
  });
}

}  // namespace

void kv_append(Exec& exec, const KvAppend& args) {
  if (args.rows.kv_len.dim(0) == 0) return;
  with_element_type(args.k.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    switch (args.keys.dtype) {
      case DType::f32:
        return append<T, float>(exec, args);
      case DType::bf16:
        return append<T, uint16_t>(exec, args);
      default:
        return append<T, Half>(exec, args);
    }
  });
}

}  // namespace fathom::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
