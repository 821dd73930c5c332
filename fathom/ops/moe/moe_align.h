// moe_align: the slots of a step's routing in the order of their experts, so that each expert's
// tokens are worked on together.
//
// Slot i = t * k + s is token t's choice ids[t, s]. Those of expert e are slots[begin[e]] ..
// slots[begin[e + 1] - 1], ascending; slots with id -1 come nowhere. places[i] is where slot i
// stands in `slots`, -1 if nowhere.
//
// Shapes, all i32: ids [T, k], below E, rows may be strided; slots, places [T * k], whose slots
// past begin[E] are left alone; begin [E + 1]. T may be 0. Exact.
// On the CPU grouped_moe's rows begin with it; on a GPU they make their own routes
// (moe_routes.cuh). Source: specs deepseek_v3, section 5.6.
#pragma once

#include "fathom/core/kernel_table.h"
#include "fathom/core/tensor.h"

namespace fathom::ops {

struct MoeAlign {
  Tensor ids;
  Tensor slots;
  Tensor places;
  Tensor begin;
};

void moe_align(Exec& exec, const MoeAlign& args);
// The same of `ids` into the workspace.
MoeAlign moe_align(Exec& exec, const Tensor& ids, int64_t experts);

const KernelTable<MoeAlign>& moe_align_table();
Cost cost(const MoeAlign& args);

template <class F>
void for_each_tensor(MoeAlign& args, F f) {
  f("ids", args.ids, Role::in);
  f("slots", args.slots, Role::inout);
  f("places", args.places, Role::out);
  f("begin", args.begin, Role::out);
}

}  // namespace fathom::ops
