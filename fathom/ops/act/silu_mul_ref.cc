#include <cmath>

#include "fathom/ops/act/silu_mul_rows.h"
#include "fathom/ops/element.h"

namespace fathom::ops {

void silu_mul_ref(Exec& exec, const SiluMul& args) {
  exec.parallel_for(args.y.dim(0), 1, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const Tensor gate = args.gate.row(t), up = args.up.row(t), y = args.y.row(t);
      for (int64_t i = 0; i < y.dim(0); ++i) {
        const float x = load_element(gate, i);
        store_element(y, i, x / (1.0f + std::exp(-x)) * load_element(up, i));
      }
    }
  });
}

}  // namespace fathom::ops
