#include <vector>

#include "fathom/ops/attention/mla_gather_rows.h"
#include "fathom/ops/attention/mla_row.h"

namespace fathom::ops {

void mla_gather_ref(Exec& exec, const MlaGather& args) {
  const int64_t L = args.latent.dim(1), R = args.k_rope.dim(1), p = args.kv.dim(1);
  const int32_t* begin = args.begin.as<int32_t>();
  for (int64_t b = 0; b < args.from.dim(0); ++b) {
    const int32_t* pages = args.rows.pages.as<int32_t>() + args.rows.page_begin.as<int32_t>()[b];
    const int64_t from = args.from.as<int32_t>()[b];
    exec.parallel_for(begin[b + 1] - begin[b], 16, [&](Range rows) {
      std::vector<float> values(static_cast<size_t>(L + R));
      for (int64_t i = rows.begin; i < rows.end; ++i) {
        load_mla_row(args.kv, pages[(from + i) / p], (from + i) % p, L, R, values.data());
        const Tensor latent = args.latent.row(begin[b] + i), rope = args.k_rope.row(begin[b] + i);
        for (int64_t l = 0; l < L; ++l) store_element(latent, l, values[static_cast<size_t>(l)]);
        for (int64_t r = 0; r < R; ++r) store_element(rope, r, values[static_cast<size_t>(L + r)]);
      }
    });
  }
}

}  // namespace fathom::ops
