// Mlp: SwiGLU, y = down(silu(gate(x)) * up(x)).
#pragma once

#include "fathom/layers/linear.h"

namespace fathom::layers {

class Mlp {
 public:
  // Takes gate_proj, up_proj [I, C] and down_proj [C, I] under `name`.
  void load(
      weights::Loader& loader,
      const weights::Scope& name,
      int64_t width,
      int64_t intermediate,
      bool bias
  );

  // x [T, C] -> y [T, C]; y may be x.
  void operator()(Exec& exec, const Tensor& x, const Tensor& y) const;
  void behind_norm(Exec& exec, const NormInput& x, const Tensor& y) const;

 private:
  Tensor hidden(Exec& exec, const Tensor& x) const;  // what gate_up_ gives, in the workspace

  Linear gate_up_;
  Linear down_;
  int64_t intermediate_ = 0;
};

}  // namespace fathom::layers
