#include "fathom/ops/attention/attend_row.h"
#include "fathom/ops/attention/gqa_decode_rows.h"

namespace fathom::ops {

void gqa_decode_ref(Exec& exec, const PagedAttention& args) {
  attend_rows(exec, args);
}

}  // namespace fathom::ops
