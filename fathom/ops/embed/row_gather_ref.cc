#include <cstring>

#include "fathom/ops/embed/row_gather_rows.h"

namespace fathom::ops {

void row_gather_ref(Exec& exec, const RowGather& args) {
  (void)exec;
  const int32_t* rows = args.rows.as<int32_t>();
  const auto bytes = static_cast<size_t>(bytes_of(args.x.dtype, args.x.dim(1)));
  for (int64_t i = 0; i < args.rows.dim(0); ++i) {
    std::memcpy(args.y.row(i).data, args.x.row(rows[i]).data, bytes);
  }
}

}  // namespace fathom::ops
