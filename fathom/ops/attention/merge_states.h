// merge_states: joins the attention of one set of keys with that of another, disjoint one.
//
//   m = max(lse, other_lse);  w = exp(lse - m), v = exp(other_lse - m)
//   y = (w y + v other) / (w + v);  lse = m + ln(w + v)          per token and head, in float
// A part that saw nothing (lse -inf; +inf counts as such) adds nothing; when both saw nothing y is
// 0 and lse -inf.
//
// Shapes: y, other [T, H, D], f32 or bf16, the same, heads and elements contiguous, tokens may be
// strided; lse, other_lse [T, H] f32, natural logarithms. y and lse are read and written; nothing
// aliases. T may be 0. Source: specs deepseek_v3, section 2.6.
#pragma once

#include "fathom/ops/attention/paged_rows.h"

namespace fathom::ops {

struct MergeStates {
  Tensor y;
  Tensor lse;
  Tensor other;
  Tensor other_lse;
};

void merge_states(Exec& exec, const MergeStates& args);

const KernelTable<MergeStates>& merge_states_table();
Cost cost(const MergeStates& args);

template <class F>
void for_each_tensor(MergeStates& args, F f) {
  f("y", args.y, Role::inout);
  f("lse", args.lse, Role::inout);
  f("other", args.other, Role::in);
  f("other_lse", args.other_lse, Role::in);
}

}  // namespace fathom::ops
