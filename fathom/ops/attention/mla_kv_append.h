// mla_kv_append: writes the latents and rotated rope keys of the step's tokens to their cache rows
// (mla_decode.h), from where each stands, rounded once to the cache's dtype.
//
// Shapes: latent [T, L], k_rope [T, R], f32 or bf16, the same, rows strided; kv [P, p, L + R] f32
// or bf16, pages strided, or u8 [P, p, mla_row_bytes(L, R)]: FP8 rows, each 128 of the latent
// quantised as fused_quant does. Two tokens never share a place, but for those of padded rows in
// page 0, whose content is never read.
#pragma once

#include "fathom/ops/attention/paged_rows.h"

namespace fathom::ops {

struct MlaKvAppend {
  PagedRows rows;
  Tensor latent;
  Tensor k_rope;
  Tensor kv;
};

void mla_kv_append(Exec& exec, const MlaKvAppend& args);

const KernelTable<MlaKvAppend>& mla_kv_append_table();
Cost cost(const MlaKvAppend& args);

template <class F>
void for_each_tensor(MlaKvAppend& args, F f) {
  for_each_row_tensor(args.rows, f);
  f("latent", args.latent, Role::in);
  f("k_rope", args.k_rope, Role::in);
  f("kv", args.kv, Role::inout);
}

}  // namespace fathom::ops
