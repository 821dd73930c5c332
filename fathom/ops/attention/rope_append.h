// rope_append: rope (rope/rope.h) and kv_append (kv_append.h) of the same tokens: q and k are
// rotated in place, then k and v are written to the cache. Shapes, dtypes and strides are those
// ops'; k's head size is the table's.
#pragma once

#include "fathom/ops/attention/paged_rows.h"
#include "fathom/ops/rope/rope.h"

namespace fathom::ops {

struct RopeAppend {
  PagedRows rows;
  Tensor positions;
  Tensor table;
  RopePairs pairs = RopePairs::halves;
  Tensor q;
  Tensor k;
  Tensor v;
  Tensor keys;
  Tensor values;
};

void rope_append(Exec& exec, const RopeAppend& args);

const KernelTable<RopeAppend>& rope_append_table();
Cost cost(const RopeAppend& args);

template <class F>
void for_each_tensor(RopeAppend& args, F f) {
  for_each_row_tensor(args.rows, f);
  f("positions", args.positions, Role::in);
  f("table", args.table, Role::weight);
  f("q", args.q, Role::inout);
  f("k", args.k, Role::inout);
  f("v", args.v, Role::in);
  f("keys", args.keys, Role::inout);
  f("values", args.values, Role::inout);
}

}  // namespace fathom::ops
