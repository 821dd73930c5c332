#include "fathom/runtime/pooling.h"

#include <cmath>

#include "fathom/ops/element.h"

namespace fathom::runtime {

void add_state(std::vector<double>& pooled, const Tensor& state) {
  pooled.resize(static_cast<size_t>(state.dim(0)), 0.0);
  for (size_t c = 0; c < pooled.size(); ++c)
    pooled[c] += static_cast<double>(ops::load_element(state, static_cast<int64_t>(c)));
}

bool unit_vector(const std::vector<double>& pooled, std::vector<float>& vector) {
  double square = 0;
  for (const double v : pooled) square += v * v;
  const double scale = square > 0 ? 1.0 / std::sqrt(square) : 0.0;
  vector.resize(pooled.size());
  for (size_t c = 0; c < vector.size(); ++c) vector[c] = static_cast<float>(pooled[c] * scale);
  return std::isfinite(square);
}

}  // namespace fathom::runtime
