// mla_store: what latent attention does between its projections and the attention: rms_norm
// (norm/rms_norm.h) of the latents, rope (rope/rope.h, adjacent pairs) of the queries' and the
// key's rope parts, in place, and mla_kv_append of both.
//
// Shapes, dtypes and strides are those ops': c [T, L] the latents, weight [L] of their norm, latent
// [T, L] normed; k_rope [T, R], q_rope [T, H, R] rotated in place; positions [T], table [S, R]; kv
// the cache's pages. latent may not alias c.
#pragma once

#include "fathom/ops/attention/paged_rows.h"

namespace fathom::ops {

struct MlaStore {
  PagedRows rows;
  Tensor positions;
  Tensor table;
  Tensor c;
  Tensor weight;
  float eps = 1e-6f;
  Tensor latent;
  Tensor k_rope;
  Tensor q_rope;
  Tensor kv;
};

void mla_store(Exec& exec, const MlaStore& args);

const KernelTable<MlaStore>& mla_store_table();
Cost cost(const MlaStore& args);

template <class F>
void for_each_tensor(MlaStore& args, F f) {
  for_each_row_tensor(args.rows, f);
  f("positions", args.positions, Role::in);
  f("table", args.table, Role::weight);
  f("c", args.c, Role::in);
  f("weight", args.weight, Role::weight);
  f("latent", args.latent, Role::out);
  f("k_rope", args.k_rope, Role::inout);
  f("q_rope", args.q_rope, Role::inout);
  f("kv", args.kv, Role::inout);
}

}  // namespace fathom::ops
