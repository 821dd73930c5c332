// RmsNorm: the root mean square norm of the residual stream, or of each head.
#pragma once

#include "fathom/core/exec.h"
#include "fathom/weights/loader.h"

namespace fathom::layers {

class RmsNorm {
 public:
  // Takes <name>.weight [size].
  void load(weights::Loader& loader, const weights::Scope& name, int64_t size, double eps);

  const Tensor& weight() const { return weight_; }
  float eps() const { return eps_; }
  // y = norm(x), x and y [T, size]; y may be x.
  void operator()(Exec& exec, const Tensor& x, const Tensor& y) const;
  // residual += x; y = norm(residual); y may be x.
  void add(Exec& exec, const Tensor& x, const Tensor& residual, const Tensor& y) const;

 private:
  Tensor weight_;  // f32 [size]
  float eps_ = 0;
};

}  // namespace fathom::layers
