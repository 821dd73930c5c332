#include <cmath>

#include "fathom/ops/element.h"
#include "fathom/ops/norm/rms_norm_rows.h"

namespace fathom::ops {

void rms_norm_ref(Exec& exec, const RmsNorm& args) {
  const int64_t T = args.x.dim(0);
  const int64_t C = args.x.dim(1);
  (void)exec;
  for (int64_t t = 0; t < T; ++t) {
    const Tensor x = args.x.row(t);
    const Tensor y = args.y.row(t);
    // With a residual the sum is what is normalised, as rounded when written back.
    Tensor source = x;
    if (args.residual.defined()) {
      source = args.residual.row(t);
      for (int64_t c = 0; c < C; ++c) {
        store_element(source, c, load_element(x, c) + load_element(source, c));
      }
    }
    double sum = 0;
    for (int64_t c = 0; c < C; ++c) {
      const double v = load_element(source, c);
      sum += v * v;
    }
    const double scale = 1.0 / std::sqrt(sum / static_cast<double>(C) + args.eps);
    for (int64_t c = 0; c < C; ++c) {
      const double v = load_element(source, c) * scale * load_element(args.weight, c);
      store_element(y, c, static_cast<float>(v));
    }
  }
}

}  // namespace fathom::ops
