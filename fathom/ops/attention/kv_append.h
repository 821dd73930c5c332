// kv_append: writes the keys and values of the step's tokens to their pages, rounded once to the
// cache's dtype.
//
// Shapes: k [T, Hkv, D], v [T, Hkv, Dv], f32 or bf16, the same, token strides free, heads and
// elements contiguous; keys [P, Hkv, p, D], values [P, Hkv, p, Dv], f32, f16 or bf16, the same,
// page strides free. T covers row_begin's last element. Two tokens never share a place, but for
// those of padded rows in page 0, whose content is never read.
#pragma once

#include "fathom/ops/attention/paged_rows.h"

namespace fathom::ops {

struct KvAppend {
  PagedRows rows;
  Tensor k;
  Tensor v;
  Tensor keys;
  Tensor values;
};

void kv_append(Exec& exec, const KvAppend& args);

const KernelTable<KvAppend>& kv_append_table();
Cost cost(const KvAppend& args);

template <class F>
void for_each_tensor(KvAppend& args, F f) {
  for_each_row_tensor(args.rows, f);
  f("k", args.k, Role::in);
  f("v", args.v, Role::in);
  f("keys", args.keys, Role::inout);
  f("values", args.values, Role::inout);
}

}  // namespace fathom::ops
