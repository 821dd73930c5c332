#include "fathom/ops/attention/gqa_decode.h"

#include "fathom/ops/attention/gqa_decode_rows.h"

namespace fathom::ops {
namespace {

constexpr KernelRow<PagedAttention> kRows[] = {
    {.name = "ref", .run = gqa_decode_ref},
};
constexpr KernelTable<PagedAttention> kTable{"gqa_decode", kRows};

}  // namespace

const KernelTable<PagedAttention>& gqa_decode_table() {
  return kTable;
}

void gqa_decode(Exec& exec, const PagedAttention& args) {
  expect_paged_attention(kTable.op, exec, args);
  if (args.rows.kv_len.dim(0) == 0) return;
  kTable.run(exec, args);
}

}  // namespace fathom::ops
