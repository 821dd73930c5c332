#include "fathom/ops/element.h"
#include "fathom/ops/rope/rope_rows.h"

namespace fathom::ops {
namespace {

void rotate(const Tensor& head, const float* table, RopePairs pairs) {
  const int64_t half = head.dim(0) / 2;
  for (int64_t i = 0; i < half; ++i) {
    const int64_t first = pairs == RopePairs::halves ? i : 2 * i;
    const int64_t second = pairs == RopePairs::halves ? i + half : 2 * i + 1;
    const float c = table[i], s = table[half + i];
    const float a = load_element(head, first), b = load_element(head, second);
    store_element(head, first, a * c - b * s);
    store_element(head, second, b * c + a * s);
  }
}

}  // namespace

void rope_ref(Exec& exec, const Rope& args) {
  const int64_t T = args.q.dim(0);
  const int32_t* positions = args.positions.as<int32_t>();
  for (int64_t t = 0; t < T; ++t) {
    CHECK(
        positions[t] >= 0 && positions[t] < args.table.dim(0),
        "position {} of {}",
        positions[t],
        args.table.dim(0)
    );
  }
  exec.parallel_for(T, 1, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float* table = args.table.row(positions[t]).as<float>();
      for (const Tensor& x : {args.q.row(t), args.k.row(t)}) {
        for (int64_t h = 0; h < x.dim(0); ++h) rotate(x.row(h), table, args.pairs);
      }
    }
  });
}

}  // namespace fathom::ops
