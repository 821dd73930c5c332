#include "fathom/ops/attention/prefix_pack_fp8_rows.h"
#include "fathom/ops/element.h"

namespace fathom::ops {

void prefix_pack_fp8_ref(Exec& exec, const PrefixPackFp8& args) {
  const int64_t H = args.keys.dim(1), D = args.keys.dim(2), Dv = args.values.dim(2);
  const int64_t N = D - args.k_rope.dim(1);
  exec.parallel_for(args.kv.dim(0), 1, [&](Range rows) {
    for (int64_t s = rows.begin; s < rows.end; ++s) {
      const Tensor kv = args.kv.row(s), rope = args.k_rope.row(s);
      const Tensor keys = args.keys.row(s), values = args.values.row(s);
      for (int64_t h = 0; h < H; ++h) {
        const int64_t from = h * (N + Dv);
        for (int64_t d = 0; d < D; ++d) {
          const float k = d < N ? load_element(kv, from + d) : load_element(rope, d - N);
          store_element(keys, h * D + d, k * args.k_scale_inv);
        }
        for (int64_t d = 0; d < Dv; ++d)
          store_element(values, h * Dv + d, load_element(kv, from + N + d) * args.v_scale_inv);
      }
    }
  });
}

}  // namespace fathom::ops
