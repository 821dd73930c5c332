#include "fathom/ops/attention/kv_append_rows.h"
#include "fathom/ops/element.h"

namespace fathom::ops {
namespace {

// x [Hkv, D] of one token into slot `slot` of a page [Hkv, p, D].
void store_token(const Tensor& x, const Tensor& page, int64_t slot) {
  for (int64_t h = 0; h < x.dim(0); ++h) {
    const Tensor from = x.row(h), to = page.row(h).row(slot);
    for (int64_t d = 0; d < from.dim(0); ++d) store_element(to, d, load_element(from, d));
  }
}

}  // namespace

void kv_append_ref(Exec&, const KvAppend& args) {
  const int64_t page_size = args.keys.dim(2);
  const int32_t* row_begin = args.rows.row_begin.as<int32_t>();
  const int32_t* page_begin = args.rows.page_begin.as<int32_t>();
  const int32_t* pages = args.rows.pages.as<int32_t>();
  for (int64_t b = 0; b < args.rows.kv_len.dim(0); ++b) {
    const int64_t first = args.rows.kv_len.as<int32_t>()[b] - (row_begin[b + 1] - row_begin[b]);
    for (int64_t t = row_begin[b]; t < row_begin[b + 1]; ++t) {
      const int64_t position = first + t - row_begin[b];
      const int64_t entry = page_begin[b] + position / page_size;
      CHECK(
          position >= 0 && entry < page_begin[b + 1],
          "row {}: position {} is outside its {} pages",
          b,
          position,
          page_begin[b + 1] - page_begin[b]
      );
      store_token(args.k.row(t), args.keys.row(pages[entry]), position % page_size);
      store_token(args.v.row(t), args.values.row(pages[entry]), position % page_size);
    }
  }
}

}  // namespace fathom::ops
