// The arguments that gqa_decode and mha_prefill share: causal attention over paged keys and values
// with grouped queries.
//
// For token t of row b at position i, query head h and key head g = h / (H / Hkv):
//   s_j = scale * q[t, h] . key_j[g]         for the positions j <= i (and j > i - window)
//   y[t, h] = sum_j exp(s_j - m) value_j[g] / (sum_j exp(s_j - m) + exp(sinks[h] - m))
// the sink's term only when sinks are given (GPT-OSS; models_other.md section 1). Not causal: all
// positions j of the row, whatever i is. lse[t, h] = ln of the denominator before it is divided by
// exp(-m); a query that sees nothing gets y = 0, lse = -inf.
//
// Shapes: q [T, H, D], y [T, H, Dv], f32 or bf16, the same, token strides free, heads and elements
// contiguous; keys [P, Hkv, p, D], values [P, Hkv, p, Dv], f32, f16 or bf16, the same, page strides
// free; sinks [H] f32; lse [T, H] f32. Tokens of other rows than the given ones are left alone. y
// may alias q when Dv = D.
//
// On the CPU an output's bits depend on its query, its position and the keys and values before it
// alone, never on other rows, on how a prompt was cut into chunks, on page size or on threads; and
// gqa_decode and mha_prefill rows that say "same bits" in their tables agree bit for bit. CUDA rows
// cut the keys by the work of the whole step: the same arguments give the same bits.
#pragma once

#include "fathom/ops/attention/paged_rows.h"

namespace fathom::ops {

struct PagedAttention {
  PagedRows rows;
  Tensor q;
  Tensor keys;
  Tensor values;
  float scale = 1.0f;
  int64_t window = 0;  // positions seen, the query's own among them; 0: all
  Tensor sinks = {};   // undefined: none
  bool causal = true;
  int64_t max_count = 0;  // most tokens of a row
  int64_t max_kv_len = 0;
  Tensor y;
  Tensor lse = {};  // undefined: not wanted
};

void expect_paged_attention(std::string_view op, const Exec& exec, const PagedAttention& args);

// The least: queries, outputs and each readable position of each row once. Reads kv_len, so it is
// for host tensors (bench).
Cost cost(const PagedAttention& args);

template <class F>
void for_each_tensor(PagedAttention& args, F f) {
  // Of the step: written before its kernels begin, so that a row may plan before it waits.
  for_each_row_tensor(args.rows, [&](auto name, Tensor& t, Role) { f(name, t, Role::weight); });
  f("q", args.q, Role::in);
  f("keys", args.keys, Role::in);
  f("values", args.values, Role::in);
  if (args.sinks.defined()) f("sinks", args.sinks, Role::weight);
  f("y", args.y, Role::out);
  if (args.lse.defined()) f("lse", args.lse, Role::out);
}

}  // namespace fathom::ops
