#include <algorithm>
#include <utility>

#include "fathom/ops/moe/moe_align_rows.h"

namespace fathom::ops {

void moe_align_counted(Exec&, const MoeAlign& args) {
  const int64_t T = args.ids.dim(0), k = args.ids.dim(1), E = args.begin.dim(0) - 1;
  auto* slots = args.slots.as<int32_t>();
  auto* places = args.places.as<int32_t>();
  auto* begin = args.begin.as<int32_t>();
  // begin[e + 1] counts expert e's slots, then is where its next one goes.
  std::fill_n(begin, E + 1, 0);
  for (int64_t t = 0; t < T; ++t) {
    const int32_t* ids = args.ids.as<int32_t>() + t * args.ids.stride(0);
    for (int64_t s = 0; s < k; ++s) {
      CHECK(ids[s] < E, "moe_align: expert {} of {}", ids[s], E);
      if (ids[s] >= 0) ++begin[ids[s] + 1];
    }
  }
  int32_t before = 0;
  for (int64_t e = 1; e <= E; ++e) before += std::exchange(begin[e], before);
  for (int64_t t = 0; t < T; ++t) {
    const int32_t* ids = args.ids.as<int32_t>() + t * args.ids.stride(0);
    for (int64_t s = 0; s < k; ++s) {
      const int64_t slot = t * k + s;
      places[slot] = ids[s] < 0 ? -1 : begin[ids[s] + 1]++;
      if (places[slot] >= 0) slots[places[slot]] = static_cast<int32_t>(slot);
    }
  }
}

}  // namespace fathom::ops
