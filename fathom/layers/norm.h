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

// The input of a layer behind a norm: norm(x), or, where there is a residual, residual += x;
// norm(residual). Taken once, as values or as what a product wants of them.
struct NormInput {
  const RmsNorm* norm = nullptr;
  Tensor x;              // [T, size]
  Tensor residual = {};  // [T, size]; undefined: none
  Tensor normed;         // [T, size], scratch; may be x

  // The norm's output, in `normed`.
  const Tensor& values(Exec& exec) const;
};

}  // namespace fathom::layers
