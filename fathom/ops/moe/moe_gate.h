// moe_gate: which experts a token goes to, and with what weight, from its router logits.
//
//   p_e  = sigmoid(logit_e)  or  softmax over all E of the logits          in float
//   b_e  = p_e + bias_e                                                    for choosing only
//   with groups > 1, of E / groups consecutive experts each:
//     G_g = the largest b_e of group g (GroupScore::max), or the sum of its two largest (top2_sum)
//     experts outside the kept_groups groups of largest G_g are out (as if b_e = -inf)
//   chosen: the `experts_per_token` experts of largest b_e; ties, of groups too, go to the lower
//           index
//   w_e  = p_e, without the bias; renormalise: divided by (sum of the chosen p + 1e-20), the sum
//          taken in ascending expert order; then times scale
//
// A NaN logit makes every weight of its row NaN, with valid ids.
//
// Output row: the chosen ids in ascending order with their weights, then shared_slots more slots
// with ids E, E+1, .. and weight shared_weight (shared_expert_fusion: the shared expert stands
// behind the routed ones in the expert weights). Slots past a row's `live_tokens` get id -1 and
// weight 0.
//
// Shapes: logits [T, E] f32; bias [E] f32; live_tokens [1] i32: how many leading tokens are no
// padding, undefined = all; ids, weights [T, experts_per_token + shared_slots] i32, f32. Rows of
// logits may be strided. T may be 0. E <= 1024, experts_per_token <= 32, groups <= 32.
// Source: specs deepseek_v3, sections 5.2, 5.3 and 5.5.
#pragma once

#include <cstdint>

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct MoeGate {
  enum class Scoring : uint8_t { softmax, sigmoid };
  enum class GroupScore : uint8_t { max, top2_sum };

  Tensor logits;
  Tensor bias = {};         // undefined: none
  Tensor live_tokens = {};  // undefined: T
  Scoring scoring = Scoring::softmax;
  int experts_per_token = 1;
  int groups = 1;
  int kept_groups = 1;
  GroupScore group_score = GroupScore::max;
  bool renormalise = false;
  float scale = 1.0f;
  int shared_slots = 0;
  float shared_weight = 1.0f;
  Tensor ids;
  Tensor weights;
};

void moe_gate(Exec& exec, const MoeGate& args);

const KernelTable<MoeGate>& moe_gate_table();
Cost cost(const MoeGate& args);

template <class F>
void for_each_tensor(MoeGate& args, F f) {
  f("logits", args.logits, Role::in);
  if (args.bias.defined()) f("bias", args.bias, Role::weight);
  if (args.live_tokens.defined()) f("live_tokens", args.live_tokens, Role::in);
  f("ids", args.ids, Role::out);
  f("weights", args.weights, Role::out);
}

}  // namespace fathom::ops
