#include "fathom/ops/sample/token_select_rows.h"

namespace fathom::ops {

void token_select_ref(Exec&, const TokenSelect& args) {
  const int32_t* source = args.source.as<int32_t>();
  const int32_t* index = args.index.as<int32_t>();
  for (int64_t i = 0; i < args.y.dim(0); ++i) {
    if (index[i] >= 0) args.y.as<int32_t>()[i] = source[index[i]];
  }
}

}  // namespace fathom::ops
