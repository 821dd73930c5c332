#include <vector>

#include "fathom/ops/attention/mla_kv_append_rows.h"
#include "fathom/ops/attention/mla_row.h"

namespace fathom::ops {
namespace {

void store_row(const MlaKvAppend& args, int64_t t, int64_t page, int64_t slot) {
  const int64_t L = args.latent.dim(1), R = args.k_rope.dim(1);
  std::vector<float> values(static_cast<size_t>(L + R));
  const Tensor latent = args.latent.row(t), k_rope = args.k_rope.row(t);
  for (int64_t i = 0; i < L; ++i) values[static_cast<size_t>(i)] = load_element(latent, i);
  for (int64_t i = 0; i < R; ++i) values[static_cast<size_t>(L + i)] = load_element(k_rope, i);
  store_mla_row(args.kv, page, slot, L, R, values.data());
}

}  // namespace

void mla_kv_append_ref(Exec&, const MlaKvAppend& args) {
  const int64_t page_size = args.kv.dim(1);
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
      store_row(args, t, pages[entry], position % page_size);
    }
  }
}

}  // namespace fathom::ops
