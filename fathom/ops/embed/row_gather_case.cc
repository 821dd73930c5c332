#include "fathom/ops/embed/row_gather.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::RowGather;

OpCase<RowGather> row_gather_case(
    std::string name, int64_t T, int64_t n, int64_t C, DType dtype, bool bench = false
) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            return RowGather{
                .x = in.normal(dtype, {T, C}),
                .rows = in.integers(DType::i32, {n}, 0, T - 1),
                .y = in.output(dtype, {n, C}),
            };
          },
      .bound = {},  // a copy is exact
      .bench = bench,
  };
}

}  // namespace

OpSuite row_gather_suite() {
  return make_suite<RowGather>(
      ops::row_gather_table(),
      {
          row_gather_case("n0", 4, 0, 64, DType::f32),
          row_gather_case("odd", 5, 7, 77, DType::f32),
          row_gather_case("smollm2_n16", 512, 16, 576, DType::f32, true),
          row_gather_case("llama_8b_n64", 512, 64, 4096, DType::bf16, true),
      }
  );
}

}  // namespace fathom::testing
