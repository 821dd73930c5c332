// sample: draws one token per row of logits. The law, in this order, all in float:
//   z = logits;  z[v] += bias[v];
//   repetition: z[v] = z[v] > 0 ? z[v] / r : z[v] * r   for v in prompt or output;
//   z[v] -= presence * (count[v] > 0) + frequency * count[v]   with count over the output;
//   temperature 0: the largest z, the lowest id on ties. Else p = softmax(z / temperature), cut to
//   the top_k likeliest, then to the fewest likeliest whose sum reaches top_p of what is left, then
//   to those of at least min_p times the likeliest; order by (p, then lower id). The token is drawn
//   from what is kept by inverting the cumulative law in id order at u = uniform(seed, position).
// With drafts (speculation with thresholds below 1), when the temperature is not 0, row b's drafted
// tokens are tried first, in order: with u as above and acc the sum of the probabilities so far,
// its own included, one of probability p is taken when u <= acc / threshold_acc or p >=
// threshold_single. When none is, the token is drawn from the law without them, by a random number
// of its own. With both thresholds at 1 that is the law itself, below 1 it is not (specs
// deepseek_v3, section 8.3).
// The chosen token is counted in `counts` when any penalty is on for the row.
//
// Shapes: B rows; logits [B, V] f32, read only. Every per-row parameter is [B]. counts i32 [slots,
// V] and prompt_seen u8 [slots, V] are indexed by slot[b]; undefined when no row is penalised.
// Biases are listed row after row: bias_begin [B + 1] into bias_token, bias_value; undefined when
// there are none; so are drafts, draft_begin [B + 1] into draft_token. logprob [B]: natural
// logarithm of softmax(logits) (raw: before bias, penalties and temperature) at the token;
// top_token, top_logprob [B, k]: the k likeliest of the raw law. Undefined: not wanted. healthy [B]
// u8: 0 when the row's logits hold a NaN or +inf, or nothing finite; its token is then 0.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct Sample {
  Tensor logits;
  Tensor temperature, top_p, min_p;        // f32
  Tensor top_k;                            // i32, 0: off
  Tensor seed;                             // i64
  Tensor position;                         // i32: of the token drawn
  Tensor repetition, presence, frequency;  // f32; undefined when no row is penalised
  Tensor slot;                             // i32, with counts
  Tensor counts, prompt_seen;
  Tensor bias_begin, bias_token, bias_value;
  Tensor draft_begin, draft_token;
  float threshold_single = 1.0f, threshold_acc = 1.0f;
  bool all_greedy = false;  // a promise: every temperature is 0, no bias, no penalty
  Tensor token;             // i32 [B]
  Tensor healthy;           // u8 [B]
  Tensor logprob;
  Tensor top_token, top_logprob;
};

void sample(Exec& exec, const Sample& args);

// Workspace that a call on the CPU takes.
int64_t sample_scratch_bytes(int64_t vocabulary, int threads);

const KernelTable<Sample>& sample_table();
Cost cost(const Sample& args);

// The uniform number in [0, 1) of a draw: a counter generator keyed by seed, position and the
// number of the draw there (contracts D6).
float uniform_of(uint64_t seed, uint32_t position, uint32_t draw = 0);

template <class F>
void for_each_tensor(Sample& args, F f) {
  const auto each = [&](std::string_view name, Tensor& t, Role role) {
    if (t.defined()) f(name, t, role);
  };
  each("logits", args.logits, Role::in);
  each("temperature", args.temperature, Role::in);
  each("top_p", args.top_p, Role::in);
  each("min_p", args.min_p, Role::in);
  each("top_k", args.top_k, Role::in);
  each("seed", args.seed, Role::in);
  each("position", args.position, Role::in);
  each("repetition", args.repetition, Role::in);
  each("presence", args.presence, Role::in);
  each("frequency", args.frequency, Role::in);
  each("slot", args.slot, Role::in);
  each("counts", args.counts, Role::inout);
  each("prompt_seen", args.prompt_seen, Role::in);
  each("bias_begin", args.bias_begin, Role::in);
  each("bias_token", args.bias_token, Role::in);
  each("bias_value", args.bias_value, Role::in);
  each("draft_begin", args.draft_begin, Role::in);
  each("draft_token", args.draft_token, Role::in);
  each("token", args.token, Role::out);
  each("healthy", args.healthy, Role::out);
  each("logprob", args.logprob, Role::out);
  each("top_token", args.top_token, Role::out);
  each("top_logprob", args.top_logprob, Role::out);
}

}  // namespace fathom::ops
