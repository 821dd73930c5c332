#include "fathom/ops/attention/mla_kv_append_rows.h"
#include "fathom/ops/attention/mla_row.h"

namespace fathom::ops {
namespace {

// By way of values [L + R].
void store_row(const MlaKvAppend& args, int64_t t, int64_t page, int64_t slot, float* values) {
  const int64_t L = args.latent.dim(1), R = args.k_rope.dim(1);
  const Tensor latent = args.latent.row(t), k_rope = args.k_rope.row(t);
  for (int64_t i = 0; i < L; ++i) values[i] = load_element(latent, i);
  for (int64_t i = 0; i < R; ++i) values[L + i] = load_element(k_rope, i);
  store_mla_row(args.kv, page, slot, L, R, values);
}

}  // namespace

void mla_kv_append_ref(Exec& exec, const MlaKvAppend& args) {
  Workspace::Mark mark(*exec.workspace);
  const Tensor values =
      exec.workspace->alloc(DType::f32, {args.latent.dim(1) + args.k_rope.dim(1)});
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
      store_row(args, t, pages[entry], position % page_size, values.as<float>());
    }
  }
}

}  // namespace fathom::ops
