#include <cmath>

#include "fathom/ops/element.h"
#include "fathom/ops/norm/qk_norm_rows.h"

namespace fathom::ops {
namespace {

void normalise(const Tensor& head, const Tensor& weight, float eps) {
  const int64_t D = head.dim(0);
  double sum = 0;
  for (int64_t d = 0; d < D; ++d) {
    const double v = load_element(head, d);
    sum += v * v;
  }
  const double scale = 1.0 / std::sqrt(sum / static_cast<double>(D) + eps);
  for (int64_t d = 0; d < D; ++d) {
    const double v = load_element(head, d) * scale * load_element(weight, d);
    store_element(head, d, static_cast<float>(v));
  }
}

}  // namespace

void qk_norm_ref(Exec& exec, const QkNorm& args) {
  exec.parallel_for(args.q.dim(0), 1, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const Tensor q = args.q.row(t), k = args.k.row(t);
      for (int64_t h = 0; h < q.dim(0); ++h) normalise(q.row(h), args.q_weight, args.eps);
      for (int64_t h = 0; h < k.dim(0); ++h) normalise(k.row(h), args.k_weight, args.eps);
    }
  });
}

}  // namespace fathom::ops
