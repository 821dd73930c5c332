#include "fathom/ops/attention/mla_gather.h"

#include "fathom/ops/attention/paged_case.h"

namespace fathom::testing {
namespace {

using ops::MlaGather;

// Of each row but the first position all that are there.
OpCase<MlaGather> gather_case(
    std::string name,
    std::vector<RowShape> rows,
    int32_t page,
    int64_t L,
    int64_t R,
    DType dtype,
    bool bench = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            const PagedInputs paged = make_rows(in, rows, page);
            std::vector<int32_t> from, begin{0};
            for (const RowShape& row : rows) {
              from.push_back(row.kv_len > 1 ? 1 : 0);
              begin.push_back(begin.back() + row.kv_len - from.back());
            }
            const int64_t B = static_cast<int64_t>(rows.size()), S = begin.back();
            return MlaGather{
                .rows = paged.rows,
                .from = in.values({B}, from),
                .begin = in.values({B + 1}, begin),
                .kv = in.normal(dtype, {paged.pages, page, L + R}),
                .latent = in.output(dtype, {S, L}),
                .k_rope = in.output(dtype, {S, R}),
            };
          },
      .bound = {},  // a copy is exact
      .bench = bench,
  };
}

}  // namespace

OpSuite mla_gather_suite() {
  return make_suite<MlaGather>(
      ops::mla_gather_table(),
      {
          gather_case("one", {{1, 1}}, 16, 32, 8, DType::f32),
          gather_case("odd", {{3, 7}, {1, 30}, {2, 2}}, 5, 24, 6, DType::f32),
          gather_case("page1_bf16", {{3, 7}, {1, 30}}, 1, 512, 64, DType::bf16),
          gather_case("v3_s1024", {{128, 1024}}, 64, 512, 64, DType::bf16, true),
      }
  );
}

}  // namespace fathom::testing
