#include "fathom/layers/moe.h"

#include "fathom/ops/moe/grouped_moe.h"

namespace fathom::layers {

void Moe::load(weights::Loader& loader, const weights::Scope& name, const MoeShape& shape) {
  shape_ = shape;
  ue8m0_ = loader.ue8m0();
  const int64_t C = shape.width, I = shape.intermediate;
  router_.load(loader, {{name / "gate", shape.experts}}, C, false, weights::Precision::checkpoint);
  if (shape.score_bias)
    score_bias_ = loader.take_vector(name / "gate" / "e_score_correction_bias", shape.experts);
  std::vector<weights::Scope> experts;
  for (int64_t e = 0; e < shape.experts; ++e) experts.push_back(name / "experts" / e);
  const weights::Scope shared = name / "shared_experts";
  if (has_shared() && shape.fuse_shared) {
    CHECK(shape.shared_intermediate == I, "a shared expert of another size cannot be fused");
    experts.push_back(shared);
    shape_.gate.shared_slots = 1;
    if (!shape.scale_in_gate) shape_.gate.shared_weight = 1.0f / shape.gate.scale;
  } else if (has_shared()) {
    shared_.load(loader, shared, C, shape.shared_intermediate, false);
  }
  std::vector<std::vector<weights::Part>> gate_up, down;
  for (const weights::Scope& expert : experts) {
    gate_up.push_back({{expert / "gate_proj" / "weight", I}, {expert / "up_proj" / "weight", I}});
    down.push_back({{expert / "down_proj" / "weight", C}});
  }
  gate_up_ = loader.take_stack(gate_up, C);
  down_ = loader.take_stack(down, I);
}

void Moe::operator()(Exec& exec, const Tensor& x, const Tensor& y) const {
  Workspace::Mark mark(*exec.workspace);
  const int64_t T = x.dim(0);
  const int64_t slots = shape_.gate.experts_per_token + shape_.gate.shared_slots;
  ops::MoeGate gate = shape_.gate;
  if (!shape_.scale_in_gate) gate.scale = 1.0f;
  gate.logits = exec.workspace->alloc(DType::f32, {T, shape_.experts});
  router_(exec, x, gate.logits);
  gate.bias = score_bias_;
  gate.ids = exec.workspace->alloc(DType::i32, {T, slots});
  gate.weights = exec.workspace->alloc(DType::f32, {T, slots});
  ops::moe_gate(exec, gate);
  probe(exec, "moe.ids", gate.ids);
  probe(exec, "moe.weights", gate.weights);
  Tensor shared = {};
  if (has_shared() && !shape_.fuse_shared) {
    shared = exec.workspace->alloc(x.dtype, {T, shape_.width});
    shared_(exec, x, shared);
  }
  ops::grouped_moe(
      exec,
      {.x = x,
       .ids = gate.ids,
       .weights = gate.weights,
       .gate_up = gate_up_,
       .down = down_,
       .quantise_activations = gate_up_.scale.defined(),
       .ue8m0 = ue8m0_,
       .scale = shape_.scale_in_gate ? 1.0f : shape_.gate.scale,
       .addend = shared,
       .y = y}
  );
}

}  // namespace fathom::layers
