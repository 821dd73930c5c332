// mla_gather: reads latents and rotated rope keys back from their cache rows (mla_decode.h), one
// row after another: of row b of the step the positions from[b] .. from[b] + n - 1 into the rows
// begin[b] .. begin[b + 1] - 1 of the output, n = begin[b + 1] - begin[b].
//
// Shapes: from [B], begin [B + 1] i32; kv [P, p, L + R] f32 or bf16, or u8 [P, p, mla_row_bytes];
// latent [S, L], k_rope [S, R], f32 or bf16, the same. FP8 rows are dequantised. S may be 0.
#pragma once

#include "fathom/ops/attention/paged_rows.h"

namespace fathom::ops {

struct MlaGather {
  PagedRows rows;
  Tensor from;
  Tensor begin;
  Tensor kv;
  Tensor latent;
  Tensor k_rope;
};

void mla_gather(Exec& exec, const MlaGather& args);

const KernelTable<MlaGather>& mla_gather_table();
Cost cost(const MlaGather& args);

template <class F>
void for_each_tensor(MlaGather& args, F f) {
  for_each_row_tensor(args.rows, f);
  f("from", args.from, Role::in);
  f("begin", args.begin, Role::in);
  f("kv", args.kv, Role::in);
  f("latent", args.latent, Role::out);
  f("k_rope", args.k_rope, Role::out);
}

}  // namespace fathom::ops
