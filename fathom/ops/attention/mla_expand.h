// mla_expand: keys and values of all heads from the up-projected latents and the rope key that the
// heads share:
//   keys[s, h] = kv[s, h, :N] then k_rope[s];  values[s, h] = kv[s, h, N:]
//
// Shapes: kv [S, H * (N + Dv)], k_rope [S, R]; keys [S, H, N + R], values [S, H, Dv], contiguous;
// all f32 or bf16, the same. N = N + R less R. S may be 0. Source: specs deepseek_v3, section 2.4.
#pragma once

#include "fathom/ops/attention/paged_rows.h"

namespace fathom::ops {

struct MlaExpand {
  Tensor kv;
  Tensor k_rope;
  Tensor keys;
  Tensor values;
};

void mla_expand(Exec& exec, const MlaExpand& args);

const KernelTable<MlaExpand>& mla_expand_table();
Cost cost(const MlaExpand& args);

template <class F>
void for_each_tensor(MlaExpand& args, F f) {
  f("kv", args.kv, Role::in);
  f("k_rope", args.k_rope, Role::in);
  f("keys", args.keys, Role::out);
  f("values", args.values, Role::out);
}

}  // namespace fathom::ops
