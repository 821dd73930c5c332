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

void Mlp::operator()(Exec& exec, const Tensor& x, const Tensor& y) const {
  Workspace::Mark mark(*exec.workspace);
  const int64_t T = x.dim(0), I = intermediate_;
  const Tensor gate_up = exec.workspace->alloc(x.dtype, {T, 2 * I});
  gate_up_(exec, x, gate_up);
  down_.behind_swiglu(exec, gate_up, y);
}

}  // namespace fathom::layers
