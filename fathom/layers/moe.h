// Moe: a router, its experts, and the shared experts that every token passes (DeepSeek-V2 and V3;
// specs deepseek_v3, section 5).
#pragma once

#include "fathom/layers/linear.h"
#include "fathom/layers/mlp.h"
#include "fathom/ops/moe/moe_gate.h"

namespace fathom::layers {

struct MoeShape {
  int64_t width = 0;                // C
  int64_t experts = 0;              // E
  int64_t intermediate = 0;         // Im
  int64_t shared_intermediate = 0;  // 0: no shared expert
  bool score_bias = false;
  ops::MoeGate gate;  // the choice's parameters; its tensors are set for each step
  // Feature shared_expert_fusion: the shared expert as one more routed slot with weight 1; needs
  // shared_intermediate = Im.
  bool fuse_shared = false;
  // Feature routed_scale_in_gate: gate.scale is in the experts' weights; false: their sum is
  // multiplied by it, and a fused shared expert weighs as much less.
  bool scale_in_gate = true;
};

class Moe {
 public:
  // Takes gate (and gate.e_score_correction_bias), experts.* and shared_experts under `name`.
  void load(weights::Loader& loader, const weights::Scope& name, const MoeShape& shape);

  // x [T, C] -> y [T, C]; y may not alias x.
  void operator()(Exec& exec, const Tensor& x, const Tensor& y) const;
  void behind_norm(Exec& exec, const NormInput& x, const Tensor& y) const {
    (*this)(exec, x.values(exec), y);
  }

 private:
  bool has_shared() const { return shape_.shared_intermediate > 0; }

  MoeShape shape_;
  Linear router_;
  Tensor score_bias_;  // f32 [E]; undefined: none
  QTensor gate_up_;    // [E (+ 1), 2 Im, C]
  QTensor down_;       // [E (+ 1), C, Im]
  Mlp shared_;
  bool ue8m0_ = false;  // FP8 activations have power-of-two scales
};

}  // namespace fathom::layers
