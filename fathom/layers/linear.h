// Linear: y = x W^T + bias, the product chosen by the weight's dtype. Several matrices over the
// same input (query, key, value; gate, up) are one Linear whose output columns lie one after
// another.
#pragma once

#include <string_view>
#include <vector>

#include "fathom/core/exec.h"
#include "fathom/layers/norm.h"
#include "fathom/weights/loader.h"

namespace fathom::layers {

// y [M, N] = x [M, K] weight^T + bias, by the op for weight's dtype; `bias` may be undefined. FP8
// weights in blocks: x is quantised per token and 128 values (specs deepseek_v3, sections 6.2
// and 6.3), `ue8m0` by power-of-two scales; no bias. Weights with a scale per row: x is quantised
// per token (w8a8_gemm.h).
void multiply(
    Exec& exec,
    const Tensor& x,
    const QTensor& weight,
    const Tensor& bias,
    const Tensor& y,
    bool ue8m0 = false
);

class Linear {
 public:
  // Takes <name>.weight of each part, and <name>.bias of each when `bias`. joined: one product for
  // all parts where their layouts allow it.
  void load(
      weights::Loader& loader,
      const std::vector<weights::Part>& parts,
      int64_t columns,
      bool bias,
      weights::Precision precision = weights::Precision::products,
      bool joined = true
  );

  // One matrix for drafts, which need no exact products: as FP8 where the loader can, else as it
  // is.
  void load_rounded(
      weights::Loader& loader, const weights::Scope& name, int64_t rows, int64_t columns
  );

  int64_t rows() const { return rows_; }  // N, over all parts
  // x [M, K] -> y [M, N]; y may alias nothing.
  void operator()(Exec& exec, const Tensor& x, const Tensor& y) const;
  // The same behind a norm, in one pass with its quantisation where the weight is FP8 in blocks.
  void behind_norm(Exec& exec, const NormInput& x, const Tensor& y) const;
  // The same of x = silu(g) * u, from gate_up = [g, u], [M, 2 K]; quantised behind it in one pass
  // where the weight is FP8 in blocks.
  void behind_swiglu(Exec& exec, const Tensor& gate_up, const Tensor& y) const;

 private:
  struct Part {
    QTensor weight;
    int64_t rows = 0;
  };
  QTensor weight_;           // of all rows, unless there are
  std::vector<Part> parts_;  // several that could not be joined
  Tensor bias_;              // f32 [N]; undefined: none
  int64_t rows_ = 0;
  bool ue8m0_ = false;
};

}  // namespace fathom::layers
