#include "fathom/ops/attention/attend_row.h"
#include "fathom/ops/attention/mha_prefill_rows.h"

namespace fathom::ops {

void mha_prefill_ref(Exec& exec, const PagedAttention& args) {
  attend_rows(exec, args);
}

}  // namespace fathom::ops
