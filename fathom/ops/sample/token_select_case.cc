#include "fathom/ops/sample/token_select.h"
#include "fathom/testing/op_case.h"

namespace fathom::testing {
namespace {

using ops::TokenSelect;

OpCase<TokenSelect> select_case(std::string name, int64_t n, int64_t m, bool bench = false) {
  return {
      .name = std::move(name),
      .make =
          [=](CaseInputs& in) {
            return TokenSelect{
                .source = in.integers(DType::i32, {n}, 0, 100'000),
                .index = in.integers(DType::i32, {m}, -1, n - 1),
                .y = in.integers(DType::i32, {m}, 0, 100'000),
            };
          },
      .bound = {},  // a copy is exact
      .bench = bench,
  };
}

}  // namespace

OpSuite token_select_suite() {
  return make_suite<TokenSelect>(
      ops::token_select_table(),
      {
          select_case("m0", 3, 0),
          select_case("odd", 5, 7),
          select_case("b1", 64, 1, true),
          select_case("t8192", 256, 8192, true),
      }
  );
}

}  // namespace fathom::testing
