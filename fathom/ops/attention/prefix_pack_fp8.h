// prefix_pack_fp8: mla_expand (mla_expand.h) of a chunk of cached positions to e4m3 keys and
// values, in one pass:
//   keys[s, h]   = e4m3(k_scale_inv * (kv[s, h, :N] then k_rope[s]))
//   values[s, h] = e4m3(v_scale_inv * kv[s, h, N:])
//
// One float product, then nearest even, saturated at +-448; NaN stays NaN: every row equals the
// reference bit by bit.
//
// Shapes: kv [S, H * (N + Dv)], what kv_b gives, and k_rope [S, R], f32 or bf16, the same, rows may
// be strided; keys [S, H, N + R], values [S, H, Dv] f8e4m3, contiguous. N = N + R less R. S may be
// 0. Nothing aliases. Source: specs optimisations_v3, row 34.
// Used by no layer yet: it stands before a prefill attention of FP8 keys and values, which
// mha_prefill has no row for; chunks go through mla_expand until then.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct PrefixPackFp8 {
  Tensor kv;
  Tensor k_rope;
  float k_scale_inv = 1.0f, v_scale_inv = 1.0f;
  Tensor keys;
  Tensor values;
};

void prefix_pack_fp8(Exec& exec, const PrefixPackFp8& args);

const KernelTable<PrefixPackFp8>& prefix_pack_fp8_table();
Cost cost(const PrefixPackFp8& args);

template <class F>
void for_each_tensor(PrefixPackFp8& args, F f) {
  f("kv", args.kv, Role::in);
  f("k_rope", args.k_rope, Role::in);
  f("keys", args.keys, Role::out);
  f("values", args.values, Role::out);
}

}  // namespace fathom::ops
