#include "fathom/layers/mlp.h"

namespace fathom::layers {

void Mlp::load(
    weights::Loader& loader,
    const weights::Scope& name,
    int64_t width,
    int64_t intermediate,
    bool bias
) {
  intermediate_ = intermediate;
  gate_up_.load(
      loader, {{name / "gate_proj", intermediate}, {name / "up_proj", intermediate}}, width, bias
  );
  down_.load(loader, {{name / "down_proj", width}}, intermediate, bias);
}

Tensor Mlp::hidden(Exec& exec, const Tensor& x) const {
  return exec.workspace->alloc(x.dtype, {x.dim(0), 2 * intermediate_});
}

void Mlp::operator()(Exec& exec, const Tensor& x, const Tensor& y) const {
  Workspace::Mark mark(*exec.workspace);
  const Tensor gate_up = hidden(exec, x);
  gate_up_(exec, x, gate_up);
  down_.behind_swiglu(exec, gate_up, y);
}

void Mlp::behind_norm(Exec& exec, const NormInput& x, const Tensor& y) const {
  Workspace::Mark mark(*exec.workspace);
  const Tensor gate_up = hidden(exec, x.x);
  gate_up_.behind_norm(exec, x, gate_up);
  down_.behind_swiglu(exec, gate_up, y);
}

}  // namespace fathom::layers
