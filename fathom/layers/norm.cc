#include "fathom/layers/norm.h"

#include "fathom/ops/norm/rms_norm.h"

namespace fathom::layers {

void RmsNorm::load(weights::Loader& loader, const weights::Scope& name, int64_t size, double eps) {
  weight_ = loader.take_vector(name / "weight", size);
  eps_ = static_cast<float>(eps);
}

void RmsNorm::operator()(Exec& exec, const Tensor& x, const Tensor& y) const {
  ops::rms_norm(exec, {.x = x, .weight = weight_, .eps = eps_, .y = y});
}

void RmsNorm::add(Exec& exec, const Tensor& x, const Tensor& residual, const Tensor& y) const {
  ops::rms_norm(exec, {.x = x, .weight = weight_, .eps = eps_, .residual = residual, .y = y});
}

const Tensor& NormInput::values(Exec& exec) const {
  if (residual.defined()) {
    norm->add(exec, x, residual, normed);
  } else {
    (*norm)(exec, x, normed);
  }
  return normed;
}

}  // namespace fathom::layers
