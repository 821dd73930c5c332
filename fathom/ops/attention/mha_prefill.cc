#include "fathom/ops/attention/mha_prefill.h"

#include "fathom/ops/attention/mha_prefill_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<PagedAttention> kRows[] = {
    {.name = "ref", .run = mha_prefill_ref},
};
constexpr KernelTable<PagedAttention> kTable{"mha_prefill", kRows};

}  // namespace

const KernelTable<PagedAttention>& mha_prefill_table() {
  return kTable;
}

void mha_prefill(Exec& exec, const PagedAttention& args) {
  expect_paged_attention(kTable.op, exec, args);
  if (args.rows.kv_len.dim(0) == 0) return;
  kTable.run(exec, args);
}

}  // namespace fathom::ops
