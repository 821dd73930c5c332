#include <cmath>
#include <limits>

#include "fathom/ops/attention/merge_states_rows.h"
#include "fathom/ops/element.h"

namespace fathom::ops {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

float seen(float lse) {
  return lse == -kNothing ? kNothing : lse;
}

void merge(const MergeStates& args, int64_t t, int64_t h) {
  float& lse = args.lse.row(t).as<float>()[h];
  const float a = seen(lse), b = seen(args.other_lse.row(t).as<float>()[h]);
  const Tensor y = args.y.row(t).row(h), other = args.other.row(t).row(h);
  const float m = std::max(a, b);
  const float w = m == kNothing ? 0.0f : std::exp(a - m);
  const float v = m == kNothing ? 0.0f : std::exp(b - m);
  const float total = w + v;
  const float keep = total > 0 ? w / total : 0.0f, add = total > 0 ? v / total : 0.0f;
  for (int64_t d = 0; d < y.dim(0); ++d)
    store_element(y, d, keep * load_element(y, d) + add * load_element(other, d));
  lse = m == kNothing ? kNothing : m + std::log(total);
}

}  // namespace

void merge_states_ref(Exec& exec, const MergeStates& args) {
  const int64_t H = args.y.dim(1);
  exec.parallel_for(args.y.dim(0), 1, [&](Range tokens) {
    for (int64_t t = tokens.begin; t < tokens.end; ++t) {
      for (int64_t h = 0; h < H; ++h) merge(args, t, h);
    }
  });
}

}  // namespace fathom::ops
