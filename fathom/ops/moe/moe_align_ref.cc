#include "fathom/ops/moe/moe_align_rows.h"

namespace fathom::ops {

void moe_align_ref(Exec&, const MoeAlign& args) {
  const int64_t T = args.ids.dim(0), k = args.ids.dim(1), E = args.begin.dim(0) - 1;
  int32_t found = 0;
  for (int64_t e = -1; e < E; ++e) {
    if (e >= 0) args.begin.as<int32_t>()[e] = found;
    for (int64_t slot = 0; slot < T * k; ++slot) {
      const int32_t id = args.ids.row(slot / k).as<int32_t>()[slot % k];
      CHECK(id < E, "moe_align: expert {} of {}", id, E);
      if (id != e) continue;
      args.places.as<int32_t>()[slot] = e < 0 ? -1 : found;
      if (e >= 0) args.slots.as<int32_t>()[found++] = static_cast<int32_t>(slot);
    }
  }
  args.begin.as<int32_t>()[E] = found;
}

}  // namespace fathom::ops
